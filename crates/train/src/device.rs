//! `--backend` to a Burn device. The only file of this crate that names burn-ndarray, which is
//! deprecated upstream, and that starts wgpu: eagerly, so that a missing adapter is reported before
//! any work.

use burn::tensor::{Device, DeviceKind, FloatDType};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What `--backend` may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// wgpu on a hardware adapter, otherwise ndarray.
    Auto,
    /// burn-ndarray, CPU.
    Ndarray,
    /// burn-flex, CPU.
    Flex,
    /// burn-wgpu: Vulkan, Metal, DX12 or GL.
    Wgpu,
}

/// A device that exists, and the name of what was chosen.
pub struct OpenedDevice {
    /// The plain device; `.autodiff()` for training.
    pub device: Device,
    /// For people: `flex (cpu)`, `wgpu (adapter name)`.
    pub name: String,
}

impl OpenedDevice {
    /// Whether it computes in the memory of the machine.
    pub fn is_host(&self) -> bool {
        is_host(&self.device)
    }
}

/// Whether a device computes in the memory of the machine.
pub fn is_host(device: &Device) -> bool {
    let device = device.clone().without_autodiff();
    device == Device::flex() || device == ndarray()
}

impl Backend {
    /// Opens the device; with `amp` one whose kernels take 16-bit maps.
    ///
    /// # Errors
    /// As [`Backend::open`]. [`crate::error::ErrorKind::Usage`]: the device has no 16-bit maps.
    pub fn open_for(self, amp: bool) -> Result<OpenedDevice, Error> {
        let opened = self.open()?;
        let way = match (opened.is_host(), opened.device.supports_dtype(FloatDType::F16)) {
            (true, _) => "the CPU backends compute in 32 bits; add --backend wgpu, or omit --amp",
            (false, false) => "the adapter has no 16-bit numbers (SHADER_F16); omit --amp",
            (false, true) => return Ok(opened),
        };
        match amp {
            true => Err(Error::usage(format!("--amp: {}: {way}", opened.name))),
            false => Ok(opened),
        }
    }

    /// Opens the device.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Backend`] when wgpu was named and no adapter answers.
    pub fn open(self) -> Result<OpenedDevice, Error> {
        match self {
            Backend::Flex => Ok(OpenedDevice { device: Device::flex(), name: "flex (cpu)".into() }),
            Backend::Ndarray => {
                Ok(OpenedDevice { device: ndarray(), name: "ndarray (cpu)".into() })
            }
            Backend::Wgpu => wgpu(DeviceKind::DefaultDevice).map_err(|why| {
                Error::backend(format!(
                    "--backend wgpu: no graphics adapter on this machine ({why}); \
                     install a driver, or use --backend flex"
                ))
            }),
            Backend::Auto => hardware().map_or_else(|| Backend::Ndarray.open(), Ok),
        }
    }
}

/// Lines for `--backend list`: what this machine has.
pub fn list() -> Vec<String> {
    let mut lines = vec!["flex     cpu".to_owned(), "ndarray  cpu".to_owned()];
    match start(DeviceKind::DefaultDevice) {
        Ok(started) => {
            lines.push(format!("wgpu     {}", started.name));
            lines.extend(started.details.iter().map(|detail| format!("         {detail}")));
            lines.push(match started.hardware {
                true => "auto     wgpu: the adapter is hardware".to_owned(),
                false => {
                    "auto     ndarray: the adapter above computes on the CPU, far slower than \
                          ndarray"
                        .to_owned()
                }
            });
        }
        Err(why) => {
            lines.push(format!("wgpu     none ({why})"));
            lines.push("auto     ndarray: there is no graphics adapter".to_owned());
        }
    }
    lines
}

#[expect(deprecated, reason = "burn-ndarray is asked for; this is the line that goes with it")]
fn ndarray() -> Device {
    Device::ndarray()
}

fn hardware() -> Option<OpenedDevice> {
    // Without a device node there is no GPU on Linux; asking the drivers would only print noise.
    let nodes = ["/dev/dri", "/dev/nvidia0", "/dev/dxg", "/dev/kfd"];
    if cfg!(target_os = "linux") && !nodes.iter().any(|n| std::path::Path::new(n).exists()) {
        return None;
    }
    [DeviceKind::DiscreteGpu(0), DeviceKind::IntegratedGpu(0), DeviceKind::VirtualGpu(0)]
        .into_iter()
        .find_map(|kind| wgpu(kind).ok())
}

fn wgpu(kind: DeviceKind) -> Result<OpenedDevice, String> {
    start(kind).map(|Started { device, name, .. }| OpenedDevice { device, name })
}

/// An adapter that answers.
struct Started {
    device: Device,
    name: String,
    /// Driver, limits, types: for people.
    details: Vec<String>,
    /// Whether it is no software adapter.
    hardware: bool,
}

fn start(kind: DeviceKind) -> Result<Started, String> {
    let (device, setup) = Device::wgpu_options()
        .device_kind(kind)
        .init_with_setup()
        .map_err(|error| error.to_string().lines().collect::<Vec<_>>().join(" "))?;
    let (info, limits) = (setup.adapter.get_info(), setup.device.limits());
    let kind = format!("{:?}", info.device_type);
    let f16 = format!("{:?}", setup.device.features()).contains("SHADER_F16");
    let driver = [info.driver.as_str(), info.driver_info.as_str()].join(" ");
    let details = vec![
        format!("{:?}, driver {}", info.backend, driver.trim()),
        format!(
            "buffers of up to {:.1} GB, {} a kernel; {} units and {} KB of shared memory a group",
            limits.max_storage_buffer_binding_size as f64 / 1e9,
            limits.max_storage_buffers_per_shader_stage,
            limits.max_compute_invocations_per_workgroup,
            limits.max_compute_workgroup_storage_size / 1024
        ),
        format!(
            "f32{}; depthwise, pointwise and batch norm by kernels of our own",
            if f16 { ", f16 (--amp)" } else { "; no f16, so no --amp" }
        ),
    ];
    let name = format!("wgpu ({}, {kind})", info.name);
    Ok(Started { device, name, details, hardware: kind != "Cpu" })
}
