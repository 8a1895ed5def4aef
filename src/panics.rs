//! Panics of others, made errors in one place. tch reports libtorch's errors by them in all calls that do not begin with `f_`, and
//! a network is hundreds of such calls; decoders of pictures are meant not to panic, and read what comes from outside.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Where in the source this thread's last panic was that [`caught`] caught.
pub fn place() -> Option<String> {
    PLACE.with(RefCell::take)
}

/// Runs `work`; the message of its panic, if it panics, which is then not printed.
///
/// What `work` changed must not be used after an error, but for tensors: libtorch leaves those whole.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if QUIET.with(Cell::get) {
                PLACE.with(|place| place.replace(info.location().map(ToString::to_string)));
            } else {
                usual(info);
            }
        }));
    });
    // They nest: what is quiet stays so until the outermost ends.
    let before = QUIET.with(|q| q.replace(true));
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.with(|q| q.set(before));
    result.map_err(|payload| {
        payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "a panic without a message".into())
    })
}

#[cfg(test)]
mod tests {
    use super::caught;

    #[test]
    fn a_libtorch_error_is_an_error() {
        let a = tch::Tensor::zeros([2, 3], tch::kind::FLOAT_CPU);
        let message = caught(|| a.matmul(&a)).expect_err("2x3 times 2x3");
        assert!(message.contains("mat1 and mat2"), "{message}");
        assert_eq!(caught(|| 1), Ok(1));
    }
}
