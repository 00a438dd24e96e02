//! A machine without memory and without a guest: what can be made before anything is known of one.

use super::KvmError;
use super::vcpu::{Blank, Features};
use super::vm::Vm;

/// A machine whose memory and registers are to be set.
#[derive(Debug)]
pub struct Shell {
    pub(super) vm: Vm,
    pub(super) features: Features,
    pub(super) first: Blank,
    /// Further processors.
    pub(super) further: Vec<Blank>,
}

impl Shell {
    /// Makes a machine of so many processors.
    pub fn new(processors: u16) -> Result<Self, KvmError> {
        let (vm, mut cpuid) = Vm::new()?;
        let mut vcpu = |number: u16| {
            let fd = vm.create_vcpu(number.into())?;
            Blank::new(fd, &mut cpuid, number)
        };
        let first = vcpu(0)?;
        let further = (1..processors).map(vcpu).collect::<Result<_, _>>()?;
        Ok(Self {
            features: Features::of(&cpuid),
            vm,
            first,
            further,
        })
    }
}
