//! Colours of depth, of errors and of shares.

/// Nearest depth of the colour scale, in metres (dark red).
pub const SCALE_MIN_M: f32 = 2.0;
/// Farthest depth of the colour scale, in metres (blue).
pub const SCALE_MAX_M: f32 = 100.0;
/// The depth error at either end of its scale: a factor of 1.5 too far or too near.
pub const ERROR_FACTOR: f32 = 1.5;

/// Where the colour scale ends on Turbo, whose own end is nearly as black as what has no depth.
const FAR_END: f32 = 0.08;

/// Near is red, far is blue, the sky (infinity) as blue as what is at the scale's end, on a logarithmic scale; black where no depth
/// is known.
pub fn depth_colour(depth_m: f32) -> [u8; 3] {
    if depth_m.is_nan() || depth_m <= 0.0 {
        return [0; 3];
    }
    let far = (depth_m / SCALE_MIN_M).ln() / (SCALE_MAX_M / SCALE_MIN_M).ln();
    turbo(FAR_END + (1.0 - FAR_END) * (1.0 - far.clamp(0.0, 1.0)))
}

/// Too near is red, right is white, too far is blue, by the logarithm of `predicted / truth`.
pub fn error_colour(ratio: f32) -> [u8; 3] {
    let far = (ratio.ln() / ERROR_FACTOR.ln()).clamp(-1.0, 1.0);
    mix([250, 250, 250], if far < 0.0 { [190, 20, 30] } else { [20, 60, 180] }, far.abs())
}

/// White for 0, dark blue for 1.
pub fn share_colour(share: f32) -> [u8; 3] {
    let share = share.clamp(0.0, 1.0);
    if share < 0.5 {
        mix([255, 255, 255], [107, 174, 214], 2.0 * share)
    } else {
        mix([107, 174, 214], [8, 48, 107], 2.0 * share - 1.0)
    }
}

/// `share` of `b`, the rest of `a`.
pub fn mix(a: [u8; 3], b: [u8; 3], share: f32) -> [u8; 3] {
    std::array::from_fn(|i| (f32::from(a[i]) * (1.0 - share) + f32::from(b[i]) * share).round() as u8)
}

/// The Turbo colour map (A. Mikhailov, Google, 2019) by its published polynomial approximation, `t` in `0 ..= 1`.
fn turbo(t: f32) -> [u8; 3] {
    const R: [f32; 6] = [0.135_721_4, 4.615_392_6, -42.660_323, 132.131_08, -152.942_39, 59.286_38];
    const G: [f32; 6] = [0.091_402_61, 2.194_188_4, 4.842_966_6, -14.185_033, 4.277_298_6, 2.829_566];
    const B: [f32; 6] = [0.106_673_3, 12.641_946, -60.582_05, 110.362_77, -89.903_11, 27.348_25];
    [R, G, B].map(|c| (255.0 * c.iter().rev().fold(0.0, |sum, c| sum * t + c)).round().clamp(0.0, 255.0) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turbo_is_blue_then_green_then_red() {
        let [low, mid, high] = [0.1, 0.5, 0.9].map(turbo);
        assert!(low[2] > low[0] && low[2] > low[1], "{low:?}");
        assert!(mid[1] > mid[0] && mid[1] > mid[2], "{mid:?}");
        assert!(high[0] > high[1] && high[0] > high[2], "{high:?}");
    }

    #[test]
    fn near_is_red_far_and_sky_are_blue_and_nothing_is_black() {
        let (near, far) = (depth_colour(4.0), depth_colour(70.0));
        assert!(near[0] > near[2] && far[2] > far[0], "{near:?} {far:?}");
        for none in [f32::NAN, f32::NEG_INFINITY, 0.0, -3.0] {
            assert_eq!(depth_colour(none), [0; 3]);
        }
        for beyond in [1e6, f32::INFINITY] {
            assert_eq!(depth_colour(SCALE_MAX_M), depth_colour(beyond), "beyond the scale is its end");
        }
    }

    #[test]
    fn the_far_end_is_told_from_what_has_no_depth() {
        // WCAG's contrast with black, of which 1 is none.
        let linear = |c: u8| (f32::from(c) / 255.0).powf(2.2);
        let contrast = |[r, g, b]: [u8; 3]| 1.0 + (0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)) / 0.05;
        let [end, turbos] = [depth_colour(SCALE_MAX_M), turbo(0.0)].map(contrast);
        assert!(end > 2.0 && turbos < 1.5, "{end} {turbos}");
    }

    #[test]
    fn right_is_white_too_near_is_red() {
        assert_eq!(error_colour(1.0), [250, 250, 250]);
        assert_eq!(error_colour(0.1), [190, 20, 30]);
        assert_eq!(error_colour(f32::INFINITY), [20, 60, 180]);
        assert_eq!(
            (share_colour(0.0), share_colour(0.5), share_colour(1.0)),
            ([255; 3], [107, 174, 214], [8, 48, 107])
        );
    }
}
