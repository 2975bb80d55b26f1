//! Counting what a piece of work asks of a GPU. A count drops every launch of the process, so this
//! test has a process of its own.

#[path = "random/random.rs"]
#[allow(dead_code, reason = "nothing is compared with a tolerance here")]
mod random;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::Device as DeviceOf;
use burn::backend::{Cube, read_sync};
use burn::tensor::{Device, TensorData};
use kernels::gpu::traffic::count;
use kernels::ops::elementwise::ElementwiseOps;
use random::random;

/// Mutations caught: launches of Burn's kernels not seen; a count that runs the work.
#[test]
fn a_count_names_launches_and_bytes_and_runs_nothing() {
    let _device = Device::wgpu_options().init().expect("an adapter; install mesa-vulkan-drivers");
    let values = random(1, 2 * 8 * 16 * 16);
    let data = TensorData::new(values.clone(), [2, 8, 16, 16]);
    let x = Cube::float_from_data(data, &DeviceOf::<Cube>::default());
    let traffic = count(|| {
        let y = Cube::rectified(x.clone());
        let _ = Cube::float_exp(y);
    });
    let work = traffic.operations["activation"];
    let map = 2 * 8 * 16 * 16 * 4;
    assert_eq!((work.calls, work.read, work.written, work.chain), (1, map, map, 1));
    // The copy to channels last, the kernel, Burn's exponential.
    assert_eq!(traffic.launch_count(), 3, "{:?}", traffic.launches);
    assert_eq!(traffic.bytes(), 2 * map);
    // Nothing is counted or dropped afterwards.
    let positive = read_sync(Cube::float_into_data(Cube::rectified(x))).expect("values");
    let positive = positive.try_into_vec::<f32>().expect("floats");
    assert!(positive.iter().zip(values).all(|(got, from)| *got == from.max(0.0)));
}
