//! The numbers that the golden answers were made of and that need not be kept. make_golden.py and make_encodings.py have the
//! same, to the bit.

pub fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// Of a name and 0, 1, 2, ...
pub fn hashes(name: &str) -> impl Iterator<Item = u32> {
    let base = fnv(name);
    (0_u64..).map(move |i| {
        let mut h = i.wrapping_mul(0x9e37_79b1).wrapping_add(base.into()) as u32;
        h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
        h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
        h ^ (h >> 16)
    })
}
