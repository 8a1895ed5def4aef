//! The factor on half precision's loss, as PyTorch's `GradScaler` moves it: without it small gradients would be 0.

use anyhow::bail;

/// Steps without overflow after which it doubles.
const GROWTH: usize = 2000;
/// 2^-24. Gradients that are not finite at this factor are so by themselves.
const LEAST: f64 = 1.0 / 16_777_216.0;

/// The factor, with what moves it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    /// On the loss.
    pub factor: f64,
    /// Steps since it changed.
    pub steady: usize,
}

impl LossScale {
    /// Moves it after a step whose gradients are finite or not; returns whether the step is taken.
    ///
    /// # Errors
    /// Gradients are not finite at the least factor either: no step would ever be taken.
    pub fn follow(&mut self, finite: bool) -> anyhow::Result<bool> {
        if !finite {
            self.factor /= 2.0;
            self.steady = 0;
            if self.factor < LEAST {
                bail!(
                    "in fp16 the gradients are not finite, however small the loss is made (by {:.0e}), and no step is \
                     taken: a lower max_learning_rate helps, or precision bf16 or fp32",
                    self.factor
                );
            }
            return Ok(false);
        }
        self.steady += 1;
        if self.steady >= GROWTH {
            self.factor *= 2.0;
            self.steady = 0;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_at_an_overflow_and_doubles_after_steady_steps() {
        let mut scale = LossScale { factor: 65536.0, steady: GROWTH - 2 };
        assert!(!scale.follow(false).expect("mended"));
        assert_eq!(scale, LossScale { factor: 32768.0, steady: 0 });
        for step in 1..GROWTH {
            assert!(scale.follow(true).expect("taken"));
            assert_eq!(scale, LossScale { factor: 32768.0, steady: step });
        }
        assert!(scale.follow(true).expect("taken"));
        assert_eq!(scale, LossScale { factor: 65536.0, steady: 0 });
    }

    #[test]
    fn gradients_that_are_never_finite_end_the_run() {
        let mut scale = LossScale { factor: 65536.0, steady: 0 };
        let error = (0..100).find_map(|_| scale.follow(false).err()).expect("an end");
        assert!(error.to_string().contains("no step is taken: a lower"), "{error}");
        assert_eq!(scale.factor, LEAST / 2.0);
    }
}
