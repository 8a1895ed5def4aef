//! The start of ROS in this process, with what is wrong in words: r2r panics on what rcl refuses, and rcl's own reasons do not
//! come through it.

use super::logger::{self, Severity};
use crate::panics::caught;
use anyhow::{bail, ensure, Context as _};
use std::ffi::{c_char, c_int};

/// The greatest domain id whose ports exist: 7400 + 250 * 232 is the last below 65536.
const MOST_DOMAIN: u32 = 232;

/// Starts ROS with this process's arguments.
///
/// # Errors
/// Malformed arguments, no such domain, no place for the log file, no middleware.
pub(crate) fn create() -> anyhow::Result<r2r::Context> {
    if let Some(argument) = std::env::args_os().find(|argument| argument.to_str().is_none()) {
        bail!("argument {argument:?} is not UTF-8, which ROS 2 does not take; give the file another name");
    }
    // Zenoh has no ports that a domain would be made of.
    let is_zenoh = std::env::var("RMW_IMPLEMENTATION").is_ok_and(|rmw| rmw.contains("zenoh"));
    if !is_zenoh {
        check_domain(std::env::var("ROS_DOMAIN_ID").ok().as_deref())?;
    }
    match caught(r2r::Context::create) {
        Ok(context) => context.with_context(|| match logger::file_fault() {
            Some(why) => format!("cannot start ROS: {why}"),
            None => "cannot start ROS".into(),
        }),
        Err(panic) => bail!("cannot start ROS with these arguments: {panic}"),
    }
}

/// As [`create`], for a program whose own arguments are not ROS's: rcl takes each `NAME:=VALUE` among them for a remapping of the
/// old form, and would advise to write it in another way.
///
/// # Errors
/// As [`create`].
pub(crate) fn create_for_tool() -> anyhow::Result<r2r::Context> {
    set_level_of_rcl(Severity::Error as c_int);
    let created = create();
    // Unset: what the root logger has.
    set_level_of_rcl(0);
    created
}

#[allow(unsafe_code)]
fn set_level_of_rcl(level: c_int) {
    type SetLevel = unsafe extern "C" fn(*const c_char, c_int) -> c_int;
    let process = libloading::os::unix::Library::this();
    // SAFETY: rcutils' function of this type, which r2r is linked with; it copies the name. No other thread logs through rcl yet.
    unsafe {
        if let Ok(set_level) = process.get::<SetLevel>(b"rcutils_logging_set_logger_level\0") {
            set_level(c"rcl".as_ptr(), level);
        }
    }
}

fn check_domain(id: Option<&str>) -> anyhow::Result<()> {
    let Some(id) = id.filter(|id| !id.is_empty()) else { return Ok(()) };
    // As rcl reads it: decimal, hexadecimal behind 0x, octal behind 0, blanks before.
    let digits = id.trim_start();
    let number = match (digits.strip_prefix("0x").or(digits.strip_prefix("0X")), digits.strip_prefix('0')) {
        (Some(hexadecimal), _) => u32::from_str_radix(hexadecimal, 16),
        (None, Some(octal)) if !octal.is_empty() => u32::from_str_radix(octal, 8),
        _ => digits.parse(),
    };
    ensure!(
        number.is_ok_and(|id| id <= MOST_DOMAIN),
        "ROS_DOMAIN_ID is '{id}', expected a number from 0 to {MOST_DOMAIN}; set it anew, or unset it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_domain;

    #[test]
    fn domains_that_there_are_not_are_refused() {
        for id in
            [None, Some(""), Some("0"), Some("42"), Some("232"), Some("0xe8"), Some("0350"), Some(" 5"), Some("010")]
        {
            check_domain(id).expect("it is one");
        }
        for id in ["233", "-1", "abc", "1 ", "99999999999", "0xe9", "0351", "08"] {
            let why = check_domain(Some(id)).expect_err(id).to_string();
            assert!(why.contains(&format!("'{id}', expected a number from 0 to 232")), "{why}");
        }
    }
}
