//! Errors of libtorch, which tch's infallible calls report by panics, as errors that say what to do.

use crate::panics::{caught, place};
use anyhow::anyhow;

/// How a panic of tch's begins: `unwrap` of its error, in the debug form.
const OF_TCH: &str = "Torch(\"";

/// Runs `work`.
///
/// # Errors
/// It panicked: libtorch failed, memory is out, or there is a fault in this program.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> anyhow::Result<T> {
    caught(work).map_err(|message| match message.split_once(OF_TCH) {
        Some((_, said)) => explained(&said.replace("\\n", "\n").replace("\\\"", "\"")),
        None if is_memory_out(&message) => explained(&message),
        None => {
            let place = place().map_or_else(String::new, |place| format!(" (at {place})"));
            anyhow!("a fault in semantic_depth itself: {message}{place}; please report it")
        }
    })
}

/// What libtorch says, and what to do.
pub(super) fn explained(message: &str) -> anyhow::Error {
    let line = message.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("no reason given");
    if is_memory_out(message) {
        anyhow!(
            "memory is out ({line}); a smaller batch (with accumulate) or a smaller crop helps, or the end of whatever else \
             uses it"
        )
    } else {
        anyhow!("libtorch: {line}")
    }
}

fn is_memory_out(message: &str) -> bool {
    message.contains("out of memory") || message.contains("can't allocate memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::kind::FLOAT_CPU;
    use tch::Tensor;

    #[test]
    fn what_libtorch_says_is_told_with_the_remedy() {
        assert_eq!(guarded(|| 1).expect("nothing is wrong"), 1);
        let product = guarded(|| Tensor::zeros([2, 3], FLOAT_CPU).matmul(&Tensor::zeros([2, 3], FLOAT_CPU)));
        let message = product.expect_err("2x3 times 2x3").to_string();
        assert!(message.starts_with("libtorch: mat1 and mat2 shapes cannot be multiplied"), "{message}");
        let large = guarded(|| Tensor::zeros([1 << 40, 16], FLOAT_CPU));
        let message = large.expect_err("64 TiB").to_string();
        assert!(message.starts_with("memory is out (") && message.contains("a smaller batch"), "{message}");
        assert!(!message.contains('\n') && !message.contains("unwrap"), "{message}");
        let message = guarded(|| panic!("index 3 of 2")).map(|_: ()| ()).expect_err("it panics").to_string();
        let (said, place) = message.split_once(" (at ").expect("its place");
        assert_eq!(said, "a fault in semantic_depth itself: index 3 of 2");
        assert!(place.starts_with("src/train/guard.rs:") && place.ends_with("; please report it"), "{place}");
    }
}
