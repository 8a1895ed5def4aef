//! Layout, proven once: (encoding, width, height, step, bytes) becomes a view or a typed error. Nothing behind it
//! checks again.

use thiserror::Error;

/// Pixel encodings that are understood, under ROS's names (`sensor_msgs/image_encodings.hpp`; `nv12` as NVIDIA's
/// drivers name it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `mono8`: 8-bit grey
    Mono8,
    /// `mono16`: 16-bit grey
    Mono16,
    /// `rgb8`
    Rgb8,
    /// `bgr8`
    Bgr8,
    /// `rgba8`
    Rgba8,
    /// `bgra8`
    Bgra8,
    /// `rgb16`
    Rgb16,
    /// `bgr16`
    Bgr16,
    /// `rgba16`
    Rgba16,
    /// `bgra16`
    Bgra16,
    /// `bayer_rggb8`
    BayerRggb8,
    /// `bayer_bggr8`
    BayerBggr8,
    /// `bayer_gbrg8`
    BayerGbrg8,
    /// `bayer_grbg8`
    BayerGrbg8,
    /// `bayer_rggb16`
    BayerRggb16,
    /// `bayer_bggr16`
    BayerBggr16,
    /// `bayer_gbrg16`
    BayerGbrg16,
    /// `bayer_grbg16`
    BayerGrbg16,
    /// `uyvy` (or `yuv422`, its deprecated name): 4:2:2, bytes U Y V Y for two pixels
    Uyvy,
    /// `yuyv` (or `yuv422_yuy2`, its deprecated name): 4:2:2, bytes Y U Y V for two pixels
    Yuyv,
    /// `nv12`: 4:2:0: `height` rows of Y, then `height / 2` rows of interleaved U and V, all `step` bytes apart
    Nv12,
}

/// Where the colours of an encoding lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Every pixel has all its channels, side by side.
    Interleaved,
    /// One colour a pixel; red at the pixels whose column and row are odd (1) or even (0) as given, blue diagonally
    /// opposite.
    Bayer {
        /// 0 or 1.
        red_column: usize,
        /// 0 or 1.
        red_row: usize,
    },
    /// Two pixels in four bytes; the first pixel's brightness is byte `luma`, U the first of the other two.
    Packed422 {
        /// 0 or 1.
        luma: usize,
    },
    /// Brightness, then a plane of U and V at half the resolution.
    Nv12,
}

impl Encoding {
    /// Every encoding, in the order in which messages name them.
    pub const ALL: [Self; 21] = [
        Self::Mono8,
        Self::Mono16,
        Self::Rgb8,
        Self::Bgr8,
        Self::Rgba8,
        Self::Bgra8,
        Self::Rgb16,
        Self::Bgr16,
        Self::Rgba16,
        Self::Bgra16,
        Self::BayerRggb8,
        Self::BayerBggr8,
        Self::BayerGbrg8,
        Self::BayerGrbg8,
        Self::BayerRggb16,
        Self::BayerBggr16,
        Self::BayerGbrg16,
        Self::BayerGrbg16,
        Self::Uyvy,
        Self::Yuyv,
        Self::Nv12,
    ];

    /// The encodings whose pixels are read as they are; of every other they are converted (`frame::convert`).
    pub const DIRECT: [Self; 5] = [Self::Rgb8, Self::Bgr8, Self::Rgba8, Self::Bgra8, Self::Mono8];

    /// ROS's name of the encoding.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mono8 => "mono8",
            Self::Mono16 => "mono16",
            Self::Rgb8 => "rgb8",
            Self::Bgr8 => "bgr8",
            Self::Rgba8 => "rgba8",
            Self::Bgra8 => "bgra8",
            Self::Rgb16 => "rgb16",
            Self::Bgr16 => "bgr16",
            Self::Rgba16 => "rgba16",
            Self::Bgra16 => "bgra16",
            Self::BayerRggb8 => "bayer_rggb8",
            Self::BayerBggr8 => "bayer_bggr8",
            Self::BayerGbrg8 => "bayer_gbrg8",
            Self::BayerGrbg8 => "bayer_grbg8",
            Self::BayerRggb16 => "bayer_rggb16",
            Self::BayerBggr16 => "bayer_bggr16",
            Self::BayerGbrg16 => "bayer_gbrg16",
            Self::BayerGrbg16 => "bayer_grbg16",
            Self::Uyvy => "uyvy",
            Self::Yuyv => "yuyv",
            Self::Nv12 => "nv12",
        }
    }

    /// The names of all, for messages.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Whether it is 8-bit and interleaved, so that a picture of it is read in place.
    pub fn is_direct(self) -> bool {
        Self::DIRECT.contains(&self)
    }

    /// Channels that lie side by side in a pixel: 1, 3 or 4. That is the bytes per pixel of an encoding that
    /// [`Encoding::is_direct`]; a Bayer or YUV pixel has one (its mosaic value, its brightness).
    pub fn channels(self) -> usize {
        match self {
            Self::Rgb8 | Self::Bgr8 | Self::Rgb16 | Self::Bgr16 => 3,
            Self::Rgba8 | Self::Bgra8 | Self::Rgba16 | Self::Bgra16 => 4,
            _ => 1,
        }
    }

    /// Channels of red, green and blue within a pixel; each is less than [`Encoding::channels`].
    pub fn rgb_offsets(self) -> [usize; 3] {
        match self {
            Self::Rgb8 | Self::Rgba8 | Self::Rgb16 | Self::Rgba16 => [0, 1, 2],
            Self::Bgr8 | Self::Bgra8 | Self::Bgr16 | Self::Bgra16 => [2, 1, 0],
            _ => [0, 0, 0],
        }
    }

    /// Whether a value has two bytes, so that their order matters.
    pub fn is_sixteen_bit(self) -> bool {
        matches!(
            self,
            Self::Mono16
                | Self::Rgb16
                | Self::Bgr16
                | Self::Rgba16
                | Self::Bgra16
                | Self::BayerRggb16
                | Self::BayerBggr16
                | Self::BayerGbrg16
                | Self::BayerGrbg16
        )
    }

    pub(crate) fn layout(self) -> Layout {
        match self {
            Self::BayerRggb8 | Self::BayerRggb16 => Layout::Bayer { red_column: 0, red_row: 0 },
            Self::BayerBggr8 | Self::BayerBggr16 => Layout::Bayer { red_column: 1, red_row: 1 },
            Self::BayerGbrg8 | Self::BayerGbrg16 => Layout::Bayer { red_column: 0, red_row: 1 },
            Self::BayerGrbg8 | Self::BayerGrbg16 => Layout::Bayer { red_column: 1, red_row: 0 },
            Self::Uyvy => Layout::Packed422 { luma: 1 },
            Self::Yuyv => Layout::Packed422 { luma: 0 },
            Self::Nv12 => Layout::Nv12,
            _ => Layout::Interleaved,
        }
    }

    /// Bytes from one pixel to the next in a row.
    fn pixel_bytes(self) -> usize {
        match self.layout() {
            Layout::Packed422 { .. } => 2,
            _ if self.is_sixteen_bit() => 2 * self.channels(),
            _ => self.channels(),
        }
    }

    /// Whether an image of it can have this width and height.
    ///
    /// # Errors
    /// [`LayoutError::Empty`], [`LayoutError::Size`].
    pub fn check_size(self, (width, height): (u32, u32)) -> Result<(), LayoutError> {
        if width == 0 || height == 0 {
            return Err(LayoutError::Empty { width, height });
        }
        let size = |expected| LayoutError::Size { encoding: self.name(), expected, width, height };
        match self.layout() {
            Layout::Packed422 { .. } if width % 2 == 1 => Err(size("an even width")),
            Layout::Nv12 if width % 2 == 1 || height % 2 == 1 => Err(size("an even width and height")),
            // In fewer pixels some colour has no neighbours to be interpolated from.
            Layout::Bayer { .. } if width < 3 || height < 3 => Err(size("at least 3x3 pixels")),
            _ => Ok(()),
        }
    }

    /// The encoding of a name of ROS.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "yuv422" => Some(Self::Uyvy),
            "yuv422_yuy2" => Some(Self::Yuyv),
            _ => Self::ALL.into_iter().find(|e| e.name() == name),
        }
    }
}

/// Whether `name` is one of OpenCV's type names (`8UC3`): so many channels, but no word of their meaning.
pub(super) fn is_type_name(name: &str) -> bool {
    let Some((depth, channels)) = name.split_once('C') else { return false };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    number(channels) && depth.strip_suffix(['U', 'S', 'F']).is_some_and(number)
}

/// What is wrong with an encoding that is not read, and the names of those that are.
fn advice(actual: &str) -> String {
    let why = if is_type_name(actual) { " (it says how many channels there are, not which colours)" } else { "" };
    format!("{why}; publish one of {}", Encoding::names())
}

/// Why an image was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// The encoding is not one that is read.
    #[error("encoding {actual:?} is not supported{}", advice(.actual))]
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
    /// A size that the encoding cannot have: odd where two pixels share their colours, or too small for a mosaic.
    #[error("an image of encoding {encoding} needs {expected}, but this one is {width}x{height}")]
    Size {
        /// Name of the encoding.
        encoding: &'static str,
        /// What the encoding needs.
        expected: &'static str,
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
    /// The number of bytes is not step x height (x 3/2 where a plane of colours follows).
    #[error("data has {actual} bytes, but step {step} x height {height}{planes} is {expected}")]
    Length {
        /// Empty, or the factor that the planes of colours add.
        planes: &'static str,
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
///
/// Of an encoding that [`Encoding::is_direct`] the bytes of a row are its pixels; of any other `frame::convert` makes pixels
/// of them.
#[derive(Debug, Clone, Copy)]
pub struct ImageView<'a> {
    encoding: Encoding,
    width: usize,
    height: usize,
    step: usize,
    big_endian: bool,
    data: &'a [u8],
}

impl<'a> ImageView<'a> {
    /// Proves the layout of an image.
    ///
    /// `step` may be any value of at least `width` x bytes per pixel; `data` must be exactly `step` x `height` bytes,
    /// as `sensor_msgs/Image` defines it (`nv12`: `step` x `height` x 3/2): a longer buffer is a publisher's mistake
    /// just as a shorter one is. `is_bigendian` has a meaning for 16-bit encodings only.
    ///
    /// # Errors
    /// [`LayoutError`], with what was expected and what came.
    pub fn new(
        encoding: &str,
        width: u32,
        height: u32,
        step: u32,
        is_bigendian: bool,
        data: &'a [u8],
    ) -> Result<Self, LayoutError> {
        let kind = Encoding::parse(encoding)
            .ok_or_else(|| LayoutError::Encoding { actual: encoding.chars().take(32).collect() })?;
        Self::of(kind, (width, height), step, is_bigendian, data)
    }

    /// As [`ImageView::new`], of an encoding that is already known.
    pub(super) fn of(
        encoding: Encoding,
        (width, height): (u32, u32),
        step: u32,
        big_endian: bool,
        data: &'a [u8],
    ) -> Result<Self, LayoutError> {
        let name = encoding.name();
        encoding.check_size((width, height))?;
        // u32 x 8 fits u64.
        let row = u64::from(width) * encoding.pixel_bytes() as u64;
        if u64::from(step) < row {
            return Err(LayoutError::Step { encoding: name, width, expected: row, actual: step });
        }
        let (rows, planes) = match encoding.layout() {
            Layout::Nv12 => (u64::from(height) + u64::from(height / 2), " x 3/2"),
            _ => (u64::from(height), ""),
        };
        // Saturating, because u32 x u32 x 3/2 does not fit u64; no data is u64::MAX long.
        let expected = u64::from(step).saturating_mul(rows);
        let actual = data.len() as u64;
        if actual != expected {
            return Err(LayoutError::Length { planes, step, height, expected, actual });
        }
        // The data exists in memory, so its length and every part of it fit usize.
        Ok(Self { encoding, width: width as usize, height: height as usize, step: step as usize, big_endian, data })
    }

    /// A tightly packed rgb8 image, e.g. one that was read from a file.
    ///
    /// # Errors
    /// [`LayoutError`] as for [`ImageView::new`].
    pub fn rgb8(width: u32, height: u32, data: &'a [u8]) -> Result<Self, LayoutError> {
        Self::without_padding(Encoding::Rgb8, (width, height), data)
    }

    /// A tightly packed image; 16-bit values have their low byte first.
    ///
    /// # Errors
    /// [`LayoutError`] as for [`ImageView::new`].
    pub fn without_padding(encoding: Encoding, size: (u32, u32), data: &'a [u8]) -> Result<Self, LayoutError> {
        let row = u64::from(size.0) * encoding.pixel_bytes() as u64;
        let too_long = LayoutError::Step { encoding: encoding.name(), width: size.0, expected: row, actual: u32::MAX };
        Self::of(encoding, size, u32::try_from(row).map_err(|_| too_long)?, false, data)
    }

    /// A tightly packed picture that a conversion wrote; the encoding is direct.
    ///
    /// # Panics
    /// If `data` is not `width` x `height` pixels: then the conversion is wrong.
    pub(super) fn packed(encoding: Encoding, width: usize, height: usize, data: &'a [u8]) -> Self {
        let step = width * encoding.channels();
        assert!(encoding.is_direct() && width > 0 && height > 0 && data.len() == step * height);
        Self { encoding, width, height, step, big_endian: false, data }
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

    /// Whether 16-bit values have their high byte first.
    pub fn is_bigendian(&self) -> bool {
        self.big_endian
    }

    /// Bytes of row `y` without the padding: `width` x bytes per pixel. Of `nv12`: the brightness.
    ///
    /// # Panics
    /// If `y` is not less than [`ImageView::height`].
    pub fn row(&self, y: usize) -> &'a [u8] {
        let start = y * self.step;
        &self.data[start..start + self.width * self.encoding.pixel_bytes()]
    }

    /// U and V, interleaved, of rows `y` and `y ^ 1`; of `nv12` only.
    ///
    /// # Panics
    /// If `y` is not less than [`ImageView::height`], or the encoding another.
    pub(super) fn chroma_row(&self, y: usize) -> &'a [u8] {
        let start = (self.height + y / 2) * self.step;
        &self.data[start..start + self.width]
    }
}

#[cfg(test)]
pub(in crate::frame) mod tests {
    use super::*;

    /// An image of any encoding whose rows have a few bytes of padding, from the beginning of `data` (8 bytes a pixel and 16 a
    /// row are enough); `None` where the encoding cannot have the size.
    pub(in crate::frame) fn image_of(
        encoding: Encoding,
        (width, height): (usize, usize),
        big_endian: bool,
        data: &[u8],
    ) -> Option<ImageView<'_>> {
        let step = width * encoding.pixel_bytes() + 3;
        let rows = if encoding == Encoding::Nv12 { height + height / 2 } else { height };
        let view =
            ImageView::of(encoding, (width as u32, height as u32), step as u32, big_endian, &data[..step * rows]);
        match view {
            Err(LayoutError::Size { .. }) => None,
            view => Some(view.expect("a valid layout")),
        }
    }

    #[test]
    fn every_encoding_reads_its_rows_and_skips_the_padding() {
        for encoding in Encoding::ALL {
            let bytes = encoding.pixel_bytes();
            let (width, height, rows) = if encoding == Encoding::Nv12 { (4, 4, 6) } else { (4, 3, 3) };
            let row = width * bytes;
            let step = row + 5;
            let mut data = vec![0xEE; step * rows];
            for y in 0..rows {
                for i in 0..row {
                    data[y * step + i] = (10 * y + i) as u8;
                }
            }
            let view = ImageView::new(encoding.name(), 4, height, step as u32, true, &data).expect("a valid layout");
            assert_eq!((view.width(), view.height(), view.encoding()), (4, height as usize, encoding));
            assert!(view.is_bigendian());
            let expected: Vec<u8> = (0..row).map(|i| (10 + i) as u8).collect();
            assert_eq!(view.row(1), expected, "{}", encoding.name());
            if encoding == Encoding::Nv12 {
                assert_eq!([view.chroma_row(0)[0], view.chroma_row(1)[0], view.chroma_row(3)[3]], [40, 40, 53]);
            }
            // What `row`, `channels` and `rgb_offsets` say together is in bounds for every encoding.
            assert!(view.row(0).len() >= view.width() * encoding.channels(), "{}", encoding.name());
            assert!(matches!(encoding.channels(), 1 | 3 | 4));
            assert!(encoding.rgb_offsets().iter().all(|&o| o < encoding.channels()));
            assert_eq!(encoding.is_direct(), Encoding::DIRECT.contains(&encoding));
            assert!(!encoding.is_direct() || bytes == encoding.channels());
        }
    }

    #[test]
    fn names_and_their_deprecated_forms() {
        for encoding in Encoding::ALL {
            assert_eq!(Encoding::parse(encoding.name()), Some(encoding));
        }
        let mut names: Vec<_> = Encoding::ALL.iter().map(|e| e.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Encoding::ALL.len());
        assert_eq!(Encoding::parse("yuv422"), Some(Encoding::Uyvy));
        assert_eq!(Encoding::parse("yuv422_yuy2"), Some(Encoding::Yuyv));
        for unknown in ["", "RGB8", "rgb8 ", "nv21", "8UC3", "32FC1"] {
            assert_eq!(Encoding::parse(unknown), None, "{unknown:?}");
        }
        assert!(is_type_name("8UC1") && is_type_name("32FC10") && is_type_name("16SC2"));
        assert!(!is_type_name("UC1") && !is_type_name("8UC") && !is_type_name("8U") && !is_type_name("nv21C1"));
    }

    fn refused(encoding: &str, width: u32, height: u32, step: u32, len: usize) -> LayoutError {
        let data = vec![0; len];
        ImageView::new(encoding, width, height, step, false, &data).map(|_| ()).expect_err("must be refused")
    }

    #[test]
    fn bad_layouts_are_named_with_expected_and_actual() {
        assert_eq!(refused("16UC1", 1, 1, 2, 2), LayoutError::Encoding { actual: "16UC1".into() });
        assert_eq!(refused("rgb8", 0, 5, 0, 0), LayoutError::Empty { width: 0, height: 5 });
        assert_eq!(refused("rgb8", 5, 0, 15, 0), LayoutError::Empty { width: 5, height: 0 });
        assert_eq!(
            refused("rgba8", 5, 1, 19, 19),
            LayoutError::Step { encoding: "rgba8", width: 5, expected: 20, actual: 19 }
        );
        assert_eq!(
            refused("bgra16", 5, 1, 39, 39),
            LayoutError::Step { encoding: "bgra16", width: 5, expected: 40, actual: 39 }
        );
        assert_eq!(
            refused("yuyv", 6, 1, 11, 11),
            LayoutError::Step { encoding: "yuyv", width: 6, expected: 12, actual: 11 }
        );
        assert_eq!(
            refused("bayer_grbg16", 5, 3, 9, 27),
            LayoutError::Step { encoding: "bayer_grbg16", width: 5, expected: 10, actual: 9 }
        );
        let length = |len| LayoutError::Length { planes: "", step: 4, height: 3, expected: 12, actual: len };
        assert_eq!(refused("mono8", 4, 3, 4, 11), length(11), "too short");
        assert_eq!(refused("mono8", 4, 3, 4, 13), length(13), "too long");
        let text = refused("8UC3", 4, 3, 12, 36).to_string();
        assert!(text.starts_with("encoding \"8UC3\" is not supported (it says how many channels"), "{text}");
        assert!(Encoding::ALL.iter().all(|e| text.contains(e.name())), "{text}");
        let text = refused(&"x\n".repeat(500), 4, 3, 12, 36).to_string();
        assert!(!text.contains('\n') && text.len() < 500, "a name is cut and escaped: {text}");
    }

    #[test]
    fn sizes_that_an_encoding_cannot_have_are_refused() {
        let size = |encoding, expected, width, height| LayoutError::Size { encoding, expected, width, height };
        assert_eq!(refused("uyvy", 3, 2, 6, 12), size("uyvy", "an even width", 3, 2));
        assert_eq!(refused("yuv422_yuy2", 1, 2, 2, 4), size("yuyv", "an even width", 1, 2));
        assert!(ImageView::new("uyvy", 4, 3, 8, false, &[0; 24]).is_ok(), "an odd height is none of 4:2:2's business");
        assert_eq!(refused("nv12", 3, 2, 4, 12), size("nv12", "an even width and height", 3, 2));
        assert_eq!(refused("nv12", 2, 3, 2, 9), size("nv12", "an even width and height", 2, 3));
        assert_eq!(refused("bayer_rggb8", 2, 4, 2, 8), size("bayer_rggb8", "at least 3x3 pixels", 2, 4));
        assert_eq!(refused("bayer_gbrg16", 4, 2, 8, 16), size("bayer_gbrg16", "at least 3x3 pixels", 4, 2));
        assert_eq!(
            refused("uyvy", 641, 480, 1282, 641 * 960).to_string(),
            "an image of encoding uyvy needs an even width, but this one is 641x480"
        );
    }

    #[test]
    fn nv12_has_half_as_many_rows_again() {
        let length =
            |step, expected, actual| LayoutError::Length { planes: " x 3/2", step, height: 4, expected, actual };
        assert_eq!(refused("nv12", 4, 4, 4, 16), length(4, 24, 16), "the brightness alone");
        assert_eq!(refused("nv12", 4, 4, 7, 43), length(7, 42, 43));
        assert!(ImageView::new("nv12", 4, 4, 7, false, &[0; 42]).is_ok());
        assert_eq!(refused("nv12", 4, 4, 4, 16).to_string(), "data has 16 bytes, but step 4 x height 4 x 3/2 is 24");
    }

    #[test]
    fn products_beyond_an_integer_do_not_wrap_into_a_valid_size() {
        assert_eq!(
            refused("mono8", 65536, 65536, 65536, 0),
            LayoutError::Length { planes: "", step: 65536, height: 65536, expected: 1 << 32, actual: 0 }
        );
        assert!(matches!(
            refused("rgba8", u32::MAX, 1, 12, 12),
            LayoutError::Step { expected, .. } if expected == 4 * u64::from(u32::MAX)
        ));
        // 2^29 pixels of 8 bytes are 2^32 bytes: 0 in 32 bits.
        assert!(matches!(
            refused("rgba16", 1 << 29, 1, 0, 0),
            LayoutError::Step { expected, .. } if expected == 1 << 32
        ));
        assert!(matches!(
            refused("uyvy", 1 << 31, 1, 0, 0),
            LayoutError::Step { expected, .. } if expected == 1 << 32
        ));
        // The greatest sizes there are: beyond u64, with nv12's planes.
        let most = u32::MAX - 1;
        for encoding in Encoding::ALL {
            for (width, height) in [(most, most), (2, most), (most, 2), (4, most), (most, 4)] {
                for step in [0, 1, most, u32::MAX] {
                    refused(encoding.name(), width, height, step, 0);
                    refused(encoding.name(), width, height, step, 24);
                }
            }
        }
        assert!(matches!(refused("nv12", 2, most, most, 3), LayoutError::Length { expected: u64::MAX, .. }));
        assert!(ImageView::rgb8(u32::MAX, 1, &[]).is_err());
    }
}
