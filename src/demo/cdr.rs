//! Little-endian CDR (OMG XTypes 1.3, plain CDR version 1) as every ROS 2 middleware puts it on the wire: a four-byte
//! encapsulation header, then fields aligned to their own size counted from the end of that header.
//!
//! The demo reads and writes the few messages it plays, records and scores in their wire form, so that an image is
//! neither copied nor converted on its way into the bag.

/// Representation identifier (plain CDR, little endian) and options.
const ENCAPSULATION: [u8; 4] = [0, 1, 0, 0];

/// Why bytes are not the message they should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CdrError {
    /// The first four bytes name another representation.
    #[error("encapsulation header is {actual:02x?}, expected 00 01 xx xx (plain CDR, little endian)")]
    Encapsulation {
        /// The first bytes, at most four.
        actual: Vec<u8>,
    },
    /// A field reaches past the end.
    #[error("field at byte {at} needs {needed} bytes, but the message has {length}")]
    Truncated {
        /// Offset of the field from the message's first byte.
        at: usize,
        /// Bytes the field needs.
        needed: usize,
        /// Length of the whole message.
        length: usize,
    },
    /// A string is not UTF-8 or lacks its terminator.
    #[error("string at byte {at} is not NUL-terminated UTF-8")]
    String {
        /// Offset of the string's first character.
        at: usize,
    },
}

/// Reads fields in order.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts after the encapsulation header.
    pub fn new(bytes: &'a [u8]) -> Result<Self, CdrError> {
        match bytes {
            [0, 1, _, _, ..] => Ok(Self { bytes, at: ENCAPSULATION.len() }),
            _ => Err(CdrError::Encapsulation { actual: bytes.iter().take(4).copied().collect() }),
        }
    }

    fn align(&mut self, size: usize) {
        let body = self.at - ENCAPSULATION.len();
        self.at = ENCAPSULATION.len() + body.next_multiple_of(size);
    }

    /// The next `count` bytes, unaligned.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], CdrError> {
        let slice = self
            .at
            .checked_add(count)
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or(CdrError::Truncated { at: self.at, needed: count, length: self.bytes.len() })?;
        self.at += count;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CdrError> {
        self.align(N);
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// `uint8`, `bool`.
    pub fn u8(&mut self) -> Result<u8, CdrError> {
        Ok(self.array::<1>()?[0])
    }

    /// `int32`.
    pub fn i32(&mut self) -> Result<i32, CdrError> {
        self.array().map(i32::from_le_bytes)
    }

    /// `uint32`.
    pub fn u32(&mut self) -> Result<u32, CdrError> {
        self.array().map(u32::from_le_bytes)
    }

    /// `int64`.
    pub fn i64(&mut self) -> Result<i64, CdrError> {
        self.array().map(i64::from_le_bytes)
    }

    /// `uint64`.
    pub fn u64(&mut self) -> Result<u64, CdrError> {
        self.array().map(u64::from_le_bytes)
    }

    /// `string`: a length that counts the terminating NUL, the characters, the NUL.
    pub fn string(&mut self) -> Result<&'a str, CdrError> {
        let length = self.u32()? as usize;
        let at = self.at;
        // Some implementations write an empty string as length 0, without a terminator.
        if length == 0 {
            return Ok("");
        }
        let (last, text) = self.bytes(length)?.split_last().ok_or(CdrError::String { at })?;
        match std::str::from_utf8(text) {
            Ok(text) if *last == 0 => Ok(text),
            _ => Err(CdrError::String { at }),
        }
    }

    /// `uint8[]`.
    pub fn byte_sequence(&mut self) -> Result<&'a [u8], CdrError> {
        let length = self.u32()? as usize;
        self.bytes(length)
    }
}

/// Writes fields in order.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Starts with the encapsulation header; `capacity` is a guess of the message's length in bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend_from_slice(&ENCAPSULATION);
        Self { bytes }
    }

    fn array<const N: usize>(&mut self, value: [u8; N]) {
        let body = (self.bytes.len() - ENCAPSULATION.len()).next_multiple_of(N);
        self.bytes.resize(ENCAPSULATION.len() + body, 0);
        self.bytes.extend_from_slice(&value);
    }

    /// `uint8`, `bool`.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// `int32`.
    pub fn i32(&mut self, value: i32) {
        self.array(value.to_le_bytes());
    }

    /// `uint32`.
    pub fn u32(&mut self, value: u32) {
        self.array(value.to_le_bytes());
    }

    /// `float64[N]`.
    pub fn f64_array(&mut self, values: &[f64]) {
        for value in values {
            self.array(value.to_le_bytes());
        }
    }

    /// `string`.
    pub fn string(&mut self, value: &str) {
        self.u32(value.len() as u32 + 1);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
    }

    /// `uint8[]`.
    pub fn byte_sequence(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.bytes.extend_from_slice(value);
    }

    /// The message.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_aligned_to_their_size() {
        let mut writer = Writer::with_capacity(0);
        writer.u8(7);
        writer.u32(0x0102_0304);
        writer.string("ab");
        writer.f64_array(&[1.0]);
        let bytes = writer.finish();
        // header 4 | 7 pad3 | 04 03 02 01 | len 3 | a b NUL pad(to 16: one) | f64
        assert_eq!(&bytes[4..12], &[7, 0, 0, 0, 4, 3, 2, 1]);
        assert_eq!(&bytes[12..20], &[3, 0, 0, 0, b'a', b'b', 0, 0]);
        assert_eq!(&bytes[20..], &1.0_f64.to_le_bytes());
        let mut reader = Reader::new(&bytes).expect("header");
        assert_eq!(reader.u8(), Ok(7));
        assert_eq!(reader.u32(), Ok(0x0102_0304));
        assert_eq!(reader.string(), Ok("ab"));
        assert_eq!(reader.u64(), Ok(1.0_f64.to_bits()));
        assert_eq!(reader.u8(), Err(CdrError::Truncated { at: 28, needed: 1, length: 28 }));
    }

    #[test]
    fn broken_bytes_are_refused() {
        assert!(matches!(Reader::new(&[0, 0, 0, 0]), Err(CdrError::Encapsulation { .. })), "big endian");
        assert!(matches!(Reader::new(&[]), Err(CdrError::Encapsulation { .. })));
        let huge = [0, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 1];
        assert!(matches!(Reader::new(&huge).expect("header").byte_sequence(), Err(CdrError::Truncated { .. })));
        let unterminated = [0, 1, 0, 0, 1, 0, 0, 0, b'x'];
        assert_eq!(Reader::new(&unterminated).expect("header").string(), Err(CdrError::String { at: 8 }));
    }
}
