//! What libtorch's archives, TorchScript and checkpoints alike, are checked for before they are read as a zip.

use std::io::{Read, Seek, SeekFrom};

/// Files in an archive. A network has one for each of its tensors and of its source files.
const MOST_FILES: u64 = 65_535;
/// Least bytes of a file's entry in a zip's directory.
const LEAST_ENTRY: u64 = 46;

/// Checks what stands at the end of a zip before the zip crate trusts it: it reserves memory for as many files as are
/// claimed, and searches the whole file for a zip64 record that is not where it should be. libtorch writes the
/// directory, zip64's record, its locator and the end record without gaps, and no comment.
///
/// # Errors
/// What is not as libtorch writes it, in words.
pub(crate) fn check_end(file: &mut (impl Read + Seek), file_bytes: u64) -> Result<(), String> {
    let no_zip = || "it is no zip archive, or not all of one: its last 22 bytes are no end record".to_string();
    let end_at = file_bytes.checked_sub(22).ok_or_else(no_zip)?;
    let end: [u8; 22] = bytes_at(file, end_at)?;
    if !end.starts_with(b"PK\x05\x06") {
        return Err(no_zip());
    }
    let (mut count, mut bytes, mut from) = (number(&end[10..12]), number(&end[12..16]), number(&end[16..20]));
    let mut to = end_at;

    let locator_at = end_at.saturating_sub(20);
    let locator: [u8; 20] = bytes_at(file, locator_at)?;
    if locator.starts_with(b"PK\x06\x07") {
        to = number(&locator[8..16]);
        if to.checked_add(56) != Some(locator_at) {
            return Err(format!("its zip64 record is said to be at byte {to}, expected it to end at {locator_at}"));
        }
        let record: [u8; 56] = bytes_at(file, to)?;
        if !record.starts_with(b"PK\x06\x06") {
            return Err(format!("it has no zip64 record at byte {to}, where it is said to be"));
        }
        (count, bytes, from) = (number(&record[32..40]), number(&record[40..48]), number(&record[48..56]));
    }
    if count > MOST_FILES || count * LEAST_ENTRY > bytes || from.checked_add(bytes) != Some(to) {
        return Err(format!(
            "its end record claims {count} files in {bytes} bytes from byte {from} on: expected up to {MOST_FILES}, \
             at least {LEAST_ENTRY} bytes for each, that end at byte {to}"
        ));
    }
    Ok(())
}

fn bytes_at<const N: usize>(file: &mut (impl Read + Seek), at: u64) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut bytes));
    read.map_err(|e| format!("{N} bytes at byte {at}: {e}"))?;
    Ok(bytes)
}

/// Of at most eight bytes, the lowest first.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |above, &byte| (above << 8) | u64::from(byte))
}
