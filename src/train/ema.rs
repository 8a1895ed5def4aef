//! The exponential moving average of the weights along a training (Polyak & Juditsky 1992, in the form that is usual
//! with batch norm): often a better network than the last one, at the price of one more copy.

use super::optimizer::{count, fill, misfits, OptimizerError};
use std::collections::HashMap;
use tch::Tensor;

/// What the names in a saved state end in.
const SUFFIX: &str = ".average";
/// Name of the number of updates in a saved state.
const UPDATES: &str = "average_updates";

/// The average of a network's variables.
///
/// The running statistics of batch norm are averaged like everything else. Each belongs to the weights that it was
/// taken with; the average of the weights lies where the network was some time ago, and so does the average of the
/// statistics, while the newest ones would be those of another network.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    updates: i64,
    variables: Vec<(String, Tensor)>,
    averages: Vec<Tensor>,
}

impl Ema {
    /// Starts at the variables' values. `variables` are all of the network, statistics included; `decay` is how much of
    /// the average stays at each update.
    ///
    /// # Errors
    /// `decay` is not within 0 and 1, or a variable does not hold floating point numbers.
    pub fn new(variables: Vec<(String, Tensor)>, decay: f64) -> Result<Self, OptimizerError> {
        if !(0.0..1.0).contains(&decay) {
            return Err(OptimizerError::Config { key: "ema_decay", expected: "0 <= decay < 1", found: decay });
        }
        if let Some((name, t)) = variables.iter().find(|(_, t)| !t.is_floating_point()) {
            let what = format!("{name}: expected floating point numbers, found {:?}", t.kind());
            return Err(OptimizerError::Parameters(what));
        }
        let averages = variables.iter().map(|(_, t)| t.detach().copy()).collect();
        Ok(Self { decay, updates: 0, variables, averages })
    }

    /// Takes the variables' values into the average, after a step. The first updates weigh more,
    /// `min(decay, (1 + n) / (10 + n))` after `n` of them: the start, which is random, is soon forgotten.
    pub fn update(&mut self) {
        let n = self.updates as f64;
        let decay = self.decay.min((1.0 + n) / (10.0 + n));
        tch::no_grad(|| {
            for (average, (_, variable)) in self.averages.iter_mut().zip(&self.variables) {
                let _ = average.lerp_(variable, 1.0 - decay);
            }
        });
        self.updates += 1;
    }

    /// Exchanges the network's values and the average: before a validation, and back after it.
    pub fn swap(&mut self) {
        tch::no_grad(|| {
            for (average, (_, variable)) in self.averages.iter_mut().zip(&mut self.variables) {
                let value = variable.copy();
                variable.copy_(average);
                average.copy_(&value);
            }
        });
    }

    /// The averages under their variables' names.
    pub fn averages(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.variables.iter().map(|(n, _)| n.as_str()).zip(&self.averages)
    }

    /// What a run needs to go on: `<variable>.average` of every variable, and `average_updates` (a single int64).
    /// Copies on the processor.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let copy = |t: &Tensor| t.to_device_(tch::Device::Cpu, t.kind(), false, true);
        let averages = self.averages().map(|(n, t)| (format!("{n}{SUFFIX}"), copy(t)));
        averages.chain([(UPDATES.to_string(), Tensor::from(self.updates))]).collect()
    }

    /// Takes a state that [`Self::state`] gave.
    ///
    /// # Errors
    /// Names every missing or misshapen tensor; nothing is changed then.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<(), OptimizerError> {
        let mut wanted: Vec<(String, Tensor)> =
            self.averages().map(|(n, t)| (format!("{n}{SUFFIX}"), t.shallow_clone())).collect();
        let mut problems = misfits(&wanted, state);
        let updates = count(UPDATES, state, &mut problems);
        if !problems.is_empty() {
            return Err(OptimizerError::State(problems));
        }
        fill(&mut wanted, state)?;
        self.updates = updates;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn variable(value: f64) -> Tensor {
        Tensor::full([2], value, (Kind::Float, Device::Cpu)).set_requires_grad(true)
    }

    fn set(variable: &Tensor, value: f64) {
        tch::no_grad(|| _ = variable.shallow_clone().fill_(value));
    }

    fn ema(v: &Tensor, decay: f64) -> Ema {
        Ema::new(vec![("v".into(), v.shallow_clone())], decay).expect("a valid decay")
    }

    fn first(e: &Ema) -> f64 {
        e.averages().next().expect("one").1.double_value(&[0])
    }

    #[test]
    fn updates_by_hand() {
        let v = variable(8.0);
        let mut e = ema(&v, 0.15);
        set(&v, 18.0);
        e.update(); // 1 / 10 of the old stays.
        assert!((first(&e) - 17.0).abs() < 1e-5);
        set(&v, 37.0);
        e.update(); // 2 / 11 is more than the decay.
        assert!((first(&e) - (0.15 * 17.0 + 0.85 * 37.0)).abs() < 1e-5);
        assert_eq!(v.double_value(&[0]), 37.0, "the variable is left alone");
    }

    #[test]
    fn swapped_and_back() {
        let v = variable(1.0);
        let mut e = ema(&v, 0.9);
        set(&v, 2.0);
        e.swap();
        assert_eq!((v.double_value(&[1]), first(&e)), (1.0, 2.0));
        assert!(v.requires_grad() && !e.averages[0].requires_grad());
        e.swap();
        assert_eq!((v.double_value(&[1]), first(&e)), (2.0, 1.0));
    }

    #[test]
    fn a_restored_average_goes_on_bit_for_bit() {
        let run = |restart: bool| {
            let v = variable(0.1);
            let mut e = ema(&v, 0.99);
            for i in 0..30 {
                set(&v, f64::from(i).sin());
                e.update();
                if restart && i == 12 {
                    let state = e.state().into_iter().collect();
                    e = ema(&v, 0.99);
                    e.load_state(&state).expect("its own state");
                }
            }
            first(&e)
        };
        assert_eq!(run(false), run(true));
    }

    #[test]
    fn wrong_input_is_named() {
        let v = variable(1.0);
        assert!(Ema::new(vec![], 1.0).expect_err("refused").to_string().contains("expected 0 <= decay < 1, found 1"));
        let whole = vec![("n".into(), Tensor::from(1_i64))];
        assert!(Ema::new(whole, 0.9).expect_err("refused").to_string().contains("n: expected floating point"));
        let message = ema(&v, 0.9).load_state(&HashMap::new()).expect_err("empty").to_string();
        assert!(
            message.contains("missing v.average [2]") && message.contains("average_updates: expected"),
            "{message}"
        );
    }
}
