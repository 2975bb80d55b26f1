//! The seam between training and the processes that it runs on.
//!
//! Four callers know it: the sampler (a rank's share of every batch), the step (sums of
//! gradients), the evaluation (sums of counts), and the run (rank 0 writes and prints).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The type in which gradients travel between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CommDtype {
    /// Every bit of them.
    F32,
    /// Half the bytes: the nearest bf16, added up in f32.
    Bf16,
}

/// A group of processes, called ranks, that each hold the same network.
///
/// Every rank calls the same operations in the same order. A lost rank ends the process of every
/// other one; see [`crate::distributed::launch::open`].
pub trait Communicator: Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn world(&self) -> usize;

    /// Replaces the values by their sums over the ranks. Every rank has as many values.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    fn sum(&self, values: &mut [f32]) -> Result<(), Error>;

    /// Replaces the values by their sums over the ranks, each summand rounded to bf16, and the sum
    /// again. Every rank has as many values, and gets the same bits.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    fn sum_bf16(&self, values: &mut [f32]) -> Result<(), Error>;

    /// Replaces the values by their sums over the ranks, as [`Communicator::sum`] does.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    fn sum_f64(&self, values: &mut [f64]) -> Result<(), Error>;

    /// Sends the bytes of rank 0 to every other rank, whose own bytes are replaced.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), Error>;

    /// The bytes of every rank, in the order of the ranks.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error>;

    /// Waits for every rank and leaves the group. A rank that ends without it ends the whole job.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    fn finish(&self) -> Result<(), Error>;
}

/// One process.
pub struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn sum(&self, _values: &mut [f32]) -> Result<(), Error> {
        Ok(())
    }

    fn sum_bf16(&self, _values: &mut [f32]) -> Result<(), Error> {
        Ok(())
    }

    fn sum_f64(&self, _values: &mut [f64]) -> Result<(), Error> {
        Ok(())
    }

    fn broadcast(&self, _bytes: &mut Vec<u8>) -> Result<(), Error> {
        Ok(())
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        Ok(vec![bytes.to_vec()])
    }

    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl dyn Communicator + '_ {
    /// Whether this process writes, prints and locks: one of the group does.
    pub fn is_root(&self) -> bool {
        self.rank() == 0
    }

    /// The value of every rank, in the order of the ranks.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    pub fn gather_values<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>, Error> {
        if self.world() == 1 {
            return Ok(vec![own]);
        }
        let bytes = serde_json::to_vec(&own).expect("plain data");
        self.gather(&bytes)?.iter().map(|bytes| read(bytes)).collect()
    }

    /// The value of rank 0. Others may give none.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    pub fn value_of_root<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<T, Error> {
        if self.world() == 1 {
            return Ok(own);
        }
        let mut bytes = serde_json::to_vec(&own).expect("plain data");
        self.broadcast(&mut bytes)?;
        if self.is_root() { Ok(own) } else { read(&bytes) }
    }

    /// The largest value of any rank.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    pub fn max(&self, own: u8) -> Result<u8, Error> {
        Ok(self.gather_values(own)?.into_iter().max().unwrap_or(own))
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|why| {
        Error::communication(format!(
            "another rank sent something else ({why}); start the same kindling on every host"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::{Alone, Communicator};

    /// Mutations caught: [`Alone`] as rank 1.
    #[test]
    fn one_process_keeps_its_values() {
        let alone: &dyn Communicator = &Alone;
        let mut values = [1.5_f32, f32::NAN];
        alone.sum(&mut values).unwrap();
        assert_eq!(values[0], 1.5);
        assert!(alone.is_root());
        assert_eq!(alone.gather_values(7_u8).unwrap(), [7]);
        assert_eq!(alone.value_of_root("a".to_owned()).unwrap(), "a");
        assert_eq!(alone.max(143).unwrap(), 143);
    }
}
