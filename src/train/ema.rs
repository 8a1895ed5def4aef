//! An exponential moving average of the weights, which wanders less than the weights themselves.

use std::collections::HashMap;
use tch::{Kind, Tensor};

/// Averages of a network's variables.
///
/// Batch norm's running statistics are averages already and fit the averaged weights better when they are averaged with
/// them, so they are treated alike.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    updates: i64,
    /// Name, variable, average; the last two change places by [`Ema::swap`].
    pairs: Vec<(String, Tensor, Tensor)>,
}

/// Name of the count in the saved state.
pub(super) const UPDATES: &str = "updates";

impl Ema {
    /// Starts at the variables' values.
    pub fn new(variables: Vec<(String, Tensor)>, decay: f64) -> Self {
        let pairs = variables.into_iter().map(|(name, v)| {
            let average = v.detach().copy();
            (name, v, average)
        });
        Self { decay, updates: 0, pairs: pairs.collect() }
    }

    /// Moves the averages towards the variables. The first updates move them further, so that the random start is soon
    /// forgotten: decay `min(decay, (1 + n) / (10 + n))` at update `n`, as TensorFlow's.
    pub fn update(&mut self) {
        let n = self.updates as f64;
        let decay = self.decay.min((1.0 + n) / (10.0 + n));
        self.updates += 1;
        tch::no_grad(|| {
            for (_, variable, average) in &mut self.pairs {
                let _ = average.lerp_(variable, 1.0 - decay);
            }
        });
    }

    /// Exchanges the variables' values and the averages.
    pub fn swap(&mut self) {
        tch::no_grad(|| {
            for (_, variable, average) in &mut self.pairs {
                let kept = variable.copy();
                variable.copy_(average);
                average.copy_(&kept);
            }
        });
    }

    /// What a run needs to go on.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let averages = self.pairs.iter().map(|(name, _, average)| (name.clone(), average.shallow_clone()));
        averages.chain([(UPDATES.to_string(), Tensor::from(self.updates))]).collect()
    }

    /// Takes a state that [`Self::state`] gave.
    ///
    /// # Errors
    /// The first tensor that is missing or of another shape.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> anyhow::Result<()> {
        let of = |name: &str, size: &[i64]| {
            let found = state.get(name).filter(|t| t.size() == size);
            found.ok_or_else(|| anyhow::anyhow!("the saved average lacks {name} of shape {size:?}"))
        };
        let updates = of(UPDATES, &[])?.to_kind(Kind::Int64).int64_value(&[]);
        for (name, _, average) in &self.pairs {
            of(name, &average.size())?;
        }
        tch::no_grad(|| {
            for (name, _, average) in &mut self.pairs {
                if let Some(saved) = state.get(name) {
                    average.copy_(saved);
                }
            }
        });
        self.updates = updates;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_and_comes_back() {
        let mut v = Tensor::from_slice(&[0.0_f32]);
        let mut ema = Ema::new(vec![("v".into(), v.shallow_clone())], 0.9);
        let mut expected = 0.0_f64;
        for n in 0..200 {
            let _ = v.fill_(1.0);
            ema.update();
            let decay = 0.9_f64.min((1.0 + f64::from(n)) / (10.0 + f64::from(n)));
            expected = expected * decay + 1.0 - decay;
            if n == 3 {
                ema.swap();
                assert!((v.double_value(&[0]) - expected).abs() < 1e-6);
                ema.swap();
                assert_eq!(v.double_value(&[0]), 1.0);
            }
        }
        let saved: HashMap<_, _> = ema.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
        let mut other = Ema::new(vec![("v".into(), Tensor::from_slice(&[5.0_f32]))], 0.9);
        other.load_state(&saved).expect("it fits");
        assert_eq!(other.updates, 200);
        assert!(other.load_state(&HashMap::new()).is_err());
    }
}
