//! What a convolution does with its sums before it stores them.

use super::simd::Simd;

/// The operations on the sums of a convolution, in this order. Constants have one value per channel.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added to the sums.
    pub bias: Option<&'a [f32]>,
    /// Then max(v, 0).
    pub relu: bool,
    /// Then v·scale + shift: a batch norm with fixed statistics.
    pub affine: Option<(&'a [f32], &'a [f32])>,
    /// Then max(v, 0).
    pub relu_after: bool,
    /// Then 2×2 max pooling, stride 2.
    pub max_pool: bool,
}

/// An [`Epilogue`] in which neutral values stand for the missing operations, padded so that kernels read whole vectors.
pub struct Ending {
    pub bias: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    /// The lower limits before and after scale and shift: 0 for a ReLU.
    pub floors: [f32; 2],
    pub max_pool: bool,
}

impl Ending {
    /// With `len` values for each operation.
    pub fn new(epilogue: Epilogue, len: usize) -> Ending {
        let padded = |values: Option<&[f32]>, neutral: f32| {
            let mut padded = values.unwrap_or_default().to_vec();
            padded.resize(len, neutral);
            padded
        };
        let floor = |relu| if relu { 0.0 } else { f32::NEG_INFINITY };
        Ending {
            bias: padded(epilogue.bias, 0.0),
            scale: padded(epilogue.affine.map(|(scale, _)| scale), 1.0),
            shift: padded(epilogue.affine.map(|(_, shift)| shift), 0.0),
            floors: [floor(epilogue.relu), floor(epilogue.relu_after)],
            max_pool: epilogue.max_pool,
        }
    }

    /// The operations before the pooling, on a vector of sums of the channels from `channel` on.
    ///
    /// # Safety
    /// There are constants for a whole vector.
    #[inline(always)]
    pub unsafe fn apply<S: Simd>(&self, s: S, channel: usize, v: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let bias = s.load(self.bias.as_ptr().add(channel));
            let (scale, shift) = (s.load(self.scale.as_ptr().add(channel)), s.load(self.shift.as_ptr().add(channel)));
            // The floor is the first argument, so that a NaN stays one.
            let v = s.max(s.splat(self.floors[0]), s.add(v, bias));
            s.max(s.splat(self.floors[1]), s.fma(v, scale, shift))
        }
    }
}
