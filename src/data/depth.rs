//! The one definition of how metric depth is coded for the network: `ln(clip(depth_m, 0, 250)) / 5`,
//! as in the article, with the clip's lower end above zero so that the logarithm exists.

/// Divisor of the logarithm.
pub const LOG_SCALE: f32 = 5.0;
/// Depth beyond this is clipped, in metres.
pub const MAX_DEPTH_M: f32 = 250.0;
/// Depth under this is clipped, in metres: the article clips at 0, where the logarithm is minus infinity.
pub const MIN_DEPTH_M: f32 = 0.1;

/// Codes a depth in metres as the network learns it. Depth that is not known (NaN, not positive) has no code.
pub fn encode(depth_m: f32) -> Option<f32> {
    (depth_m > 0.0).then(|| depth_m.clamp(MIN_DEPTH_M, MAX_DEPTH_M).ln() / LOG_SCALE)
}

/// Decodes the network's answer to metres, within `0 ..= 250`.
pub fn decode(code: f32) -> f32 {
    (code * LOG_SCALE).exp().clamp(0.0, MAX_DEPTH_M)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_goes_there_and_back() {
        for d in [0.1_f32, 1.0, 12.34, 80.0, 250.0] {
            let back = decode(encode(d).expect("positive depth has a code"));
            assert!((back - d).abs() / d < 1e-5, "{d} came back as {back}");
        }
        assert_eq!(encode(0.0), None);
        assert_eq!(encode(f32::NAN), None);
        assert!((decode(encode(1e9).expect("far")) - MAX_DEPTH_M).abs() < 1e-3);
    }
}
