//! Layout, proven once: (encoding, width, height, step, bytes) becomes a view or a typed error. Nothing behind it
//! checks again.

use thiserror::Error;

/// Pixel encodings that are understood, under ROS's names (`sensor_msgs/image_encodings.hpp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `rgb8`
    Rgb8,
    /// `bgr8`
    Bgr8,
    /// `rgba8`
    Rgba8,
    /// `bgra8`
    Bgra8,
    /// `mono8`
    Mono8,
}

impl Encoding {
    /// Every encoding, in the order in which messages name them.
    pub const ALL: [Self; 5] = [Self::Rgb8, Self::Bgr8, Self::Rgba8, Self::Bgra8, Self::Mono8];

    /// ROS's name of the encoding.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rgb8 => "rgb8",
            Self::Bgr8 => "bgr8",
            Self::Rgba8 => "rgba8",
            Self::Bgra8 => "bgra8",
            Self::Mono8 => "mono8",
        }
    }

    /// Bytes per pixel.
    pub fn channels(self) -> usize {
        match self {
            Self::Rgb8 | Self::Bgr8 => 3,
            Self::Rgba8 | Self::Bgra8 => 4,
            Self::Mono8 => 1,
        }
    }

    /// Offsets of red, green and blue within a pixel.
    pub fn rgb_offsets(self) -> [usize; 3] {
        match self {
            Self::Rgb8 | Self::Rgba8 => [0, 1, 2],
            Self::Bgr8 | Self::Bgra8 => [2, 1, 0],
            Self::Mono8 => [0, 0, 0],
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.name() == name)
    }
}

/// Why an image was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// The encoding is not one that is read.
    #[error("encoding {actual:?} is not supported; publish rgb8, bgr8, rgba8, bgra8 or mono8")]
    Encoding {
        /// As it came, at most 32 characters of it.
        actual: String,
    },
    /// An image without pixels.
    #[error("an image of {width}x{height} has no pixels")]
    Empty {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// A row does not fit into its step.
    #[error("step is {actual} bytes, but a row of {width} {encoding} pixels needs at least {expected}")]
    Step {
        /// Name of the encoding.
        encoding: &'static str,
        /// Pixels.
        width: u32,
        /// Bytes.
        expected: u64,
        /// Bytes.
        actual: u32,
    },
    /// The number of bytes is not step x height.
    #[error("data has {actual} bytes, but step {step} x height {height} is {expected}")]
    Length {
        /// Bytes.
        step: u32,
        /// Pixels.
        height: u32,
        /// Bytes.
        expected: u64,
        /// Bytes.
        actual: u64,
    },
}

/// An image whose layout has been proven: `height` rows, `step` bytes apart, each of `width` pixels.
#[derive(Debug, Clone, Copy)]
pub struct ImageView<'a> {
    encoding: Encoding,
    width: usize,
    height: usize,
    step: usize,
    data: &'a [u8],
}

impl<'a> ImageView<'a> {
    /// Proves the layout of an image.
    ///
    /// `step` may be any value of at least `width` x bytes per pixel; `data` must be exactly `step` x `height` bytes,
    /// as `sensor_msgs/Image` defines it: a longer buffer is a publisher's mistake just as a shorter one is. Every
    /// encoding read here has one byte per channel, for which `is_bigendian` has no meaning.
    ///
    /// # Errors
    /// [`LayoutError`], with what was expected and what came.
    pub fn new(
        encoding: &str,
        width: u32,
        height: u32,
        step: u32,
        _is_bigendian: bool,
        data: &'a [u8],
    ) -> Result<Self, LayoutError> {
        let kind = Encoding::parse(encoding)
            .ok_or_else(|| LayoutError::Encoding { actual: encoding.chars().take(32).collect() })?;
        if width == 0 || height == 0 {
            return Err(LayoutError::Empty { width, height });
        }
        // u32 x 4 and u32 x u32 both fit u64.
        let row = u64::from(width) * kind.channels() as u64;
        if u64::from(step) < row {
            return Err(LayoutError::Step { encoding: kind.name(), width, expected: row, actual: step });
        }
        let expected = u64::from(step) * u64::from(height);
        let actual = data.len() as u64;
        if actual != expected {
            return Err(LayoutError::Length { step, height, expected, actual });
        }
        // The data exists in memory, so its length and every part of it fit usize.
        Ok(Self { encoding: kind, width: width as usize, height: height as usize, step: step as usize, data })
    }

    /// A tightly packed rgb8 image, e.g. one that was read from a file.
    ///
    /// # Errors
    /// [`LayoutError`] as for [`ImageView::new`].
    pub fn rgb8(width: u32, height: u32, data: &'a [u8]) -> Result<Self, LayoutError> {
        let step = width.checked_mul(3).ok_or(LayoutError::Step {
            encoding: "rgb8",
            width,
            expected: u64::from(width) * 3,
            actual: u32::MAX,
        })?;
        Self::new("rgb8", width, height, step, false, data)
    }

    /// Encoding of the pixels.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Pixels in a row; at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows; at least 1.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Bytes of row `y` without the padding: `width` x bytes per pixel.
    ///
    /// # Panics
    /// If `y` is not less than [`ImageView::height`].
    pub fn row(&self, y: usize) -> &'a [u8] {
        let start = y * self.step;
        &self.data[start..start + self.width * self.encoding.channels()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_reads_its_channels_and_skips_the_padding() {
        for encoding in Encoding::ALL {
            let channels = encoding.channels();
            let step = 3 * channels + 5;
            let mut data = vec![0xEE; step * 2];
            for y in 0..2 {
                for i in 0..3 * channels {
                    data[y * step + i] = (10 * y + i) as u8;
                }
            }
            let view = ImageView::new(encoding.name(), 3, 2, step as u32, true, &data).expect("a valid layout");
            assert_eq!((view.width(), view.height(), view.encoding()), (3, 2, encoding));
            let expected: Vec<u8> = (0..3 * channels).map(|i| (10 + i) as u8).collect();
            assert_eq!(view.row(1), expected, "{}", encoding.name());
        }
    }

    #[test]
    fn bad_layouts_are_named_with_expected_and_actual() {
        let new = |encoding, w, h, step, len: usize| {
            let data = vec![0; len];
            ImageView::new(encoding, w, h, step, false, &data).map(|_| ()).expect_err("must be refused")
        };
        assert_eq!(new("16UC1", 1, 1, 2, 2), LayoutError::Encoding { actual: "16UC1".into() });
        assert_eq!(new("rgb8", 0, 5, 0, 0), LayoutError::Empty { width: 0, height: 5 });
        assert_eq!(new("rgb8", 5, 0, 15, 0), LayoutError::Empty { width: 5, height: 0 });
        assert_eq!(
            new("rgba8", 5, 1, 19, 19),
            LayoutError::Step { encoding: "rgba8", width: 5, expected: 20, actual: 19 }
        );
        assert_eq!(
            new("mono8", 4, 3, 4, 11),
            LayoutError::Length { step: 4, height: 3, expected: 12, actual: 11 },
            "too short"
        );
        assert_eq!(
            new("mono8", 4, 3, 4, 13),
            LayoutError::Length { step: 4, height: 3, expected: 12, actual: 13 },
            "too long"
        );
        // Products beyond u32 do not wrap into a small, valid-looking size.
        assert_eq!(
            new("mono8", 65536, 65536, 65536, 0),
            LayoutError::Length { step: 65536, height: 65536, expected: 1 << 32, actual: 0 }
        );
        assert!(matches!(
            new("rgba8", u32::MAX, 1, 12, 12),
            LayoutError::Step { expected, .. } if expected == 4 * u64::from(u32::MAX)
        ));
        assert!(ImageView::rgb8(u32::MAX, 1, &[]).is_err());
    }
}
