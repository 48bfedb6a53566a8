//! The values of a parameter, an optimizer's state or an average: on the CPU, on the GPU, or on both.

use crate::kernel::gpu::{Gpu, Memory};
use crate::tensor::{Flat, device};
use dfdx::prelude::*;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// An array that is copied to the other side when it is needed there. Changing it on one side drops the copy on the
/// other, so both are always the same.
#[derive(Clone)]
pub(crate) struct Values {
    len: usize,
    cpu: OnceLock<Flat>,
    gpu: OnceLock<Arc<Memory>>,
}

impl Values {
    pub(crate) fn new(values: Vec<f32>) -> Values {
        let len = values.len();
        Values::from(device().tensor_from_vec(values, (len,)))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The values on the CPU. If the GPU has failed, copies of what was there are NaN.
    pub(crate) fn tensor(&self) -> &Flat {
        self.cpu.get_or_init(|| {
            let values = self.gpu.get().map_or_else(Vec::new, |memory| memory.download());
            device().tensor_from_vec(values, (self.len,))
        })
    }

    /// The values on the CPU, to change them in place.
    pub(crate) fn tensor_mut(&mut self) -> &mut Flat {
        self.tensor();
        self.gpu.take();
        self.cpu.get_mut().expect("just copied")
    }

    /// The values on this GPU.
    pub(crate) fn on_gpu(&self, gpu: &'static Gpu) -> Arc<Memory> {
        let upload = || Arc::new(gpu.upload(&self.tensor().as_vec()));
        let memory = self.gpu.get_or_init(upload);
        if std::ptr::eq(memory.gpu(), gpu) { memory.clone() } else { upload() }
    }

    /// The values on this GPU, to change them in place.
    pub(crate) fn on_gpu_mut(&mut self, gpu: &'static Gpu) -> &Memory {
        let mut memory = self.on_gpu(gpu);
        self.gpu.take();
        // Another model may share it.
        if Arc::get_mut(&mut memory).is_none() {
            memory = Arc::new(memory.duplicate());
        }
        self.cpu.take();
        self.gpu.get_or_init(|| memory)
    }

    /// The GPU that has the values.
    pub(crate) fn gpu(&self) -> Option<&'static Gpu> {
        self.gpu.get().map(|memory| memory.gpu())
    }
}

impl From<Flat> for Values {
    fn from(tensor: Flat) -> Values {
        Values { len: tensor.shape().0, cpu: OnceLock::from(tensor), gpu: OnceLock::new() }
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Values({})", self.len)
    }
}

/// The gradient of a parameter, between the backward pass on the GPU and the optimizer's step.
#[derive(Default)]
pub(crate) struct Gradient(Arc<Mutex<Option<Memory>>>);

impl Gradient {
    /// The same place, for the backward pass.
    pub(crate) fn share(&self) -> Gradient {
        Gradient(self.0.clone())
    }

    pub(crate) fn put(&self, gradient: Memory) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradient);
    }

    pub(crate) fn take(&self) -> Option<Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A copy of a parameter starts without a gradient.
impl Clone for Gradient {
    fn clone(&self) -> Gradient {
        Gradient::default()
    }
}

impl fmt::Debug for Gradient {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Gradient")
    }
}
