//! A processor's extended state, as signal frames and turns have it read and written.

use kvm_bindings::kvm_xsave;

use super::vcpu::Vcpu;
use crate::extended::leave;
use crate::linux::{ExtendedState, Shape, StateError};

fn platform(error: kvm_ioctls::Error) -> StateError {
    StateError::Platform(std::io::Error::from_raw_os_error(error.errno()))
}

impl ExtendedState for Vcpu {
    fn shape(&self) -> Shape {
        let parts = self.parts();
        Shape {
            features: parts.features,
            bytes: parts.length(parts.features),
        }
    }

    fn read(&mut self) -> Result<Vec<u8>, StateError> {
        let state = self.fd().get_xsave().map_err(platform)?;
        let bytes = state.region.iter().flat_map(|word| word.to_le_bytes());
        let mut state: Vec<u8> = bytes.take(self.shape().bytes).collect();
        leave(&mut state, self.shape().features);
        Ok(state)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let mut state = kvm_xsave::default();
        for (word, bytes) in state.region.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = bytes.try_into().map_or(0, u32::from_le_bytes);
        }
        // SAFETY: the structure has room for all parts that this processor was given (`Vm::new` checks
        // it), so the kernel reads no more than that.
        let set = unsafe { self.fd().set_xsave(&state) };
        set.map_err(|error| match error.errno() {
            libc::EINVAL => StateError::Invalid,
            _ => platform(error),
        })
    }
}
