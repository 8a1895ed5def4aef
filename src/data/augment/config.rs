//! What may happen to a frame on its way to a crop.

use serde::{Deserialize, Serialize};

/// The transforms, all of them random; what is left out of a configuration does not happen, but for the mirror image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// Metric consistency: focal length, in pixels of the network's input, that depth is learned at. In a crop with
    /// another one a thing looks as near as the ratio of the two makes it, and its depth is multiplied by that ratio.
    /// Frames with depth need a focal length then. 0: off, depth stays as it is at every scale.
    pub focal_length_px: f32,
    /// Probability of a mirror image.
    pub flip: f64,
    /// Probability of a picture upside down.
    pub vertical_flip: f64,
    /// Greatest angle by which the picture is turned about the crop's middle, in degrees.
    pub rotation_deg: f32,
    /// Greatest ratio of the horizontal to the vertical scale, or the other way round; 1 keeps the shape of things.
    pub stretch: f32,
    /// The ratio of the horizontal to the vertical scale that `stretch` lies about: what a picture of another shape than the
    /// network's input is stretched by when it is deployed.
    pub aspect: f32,
    /// Elastic deformation.
    pub elastic: ElasticConfig,
    /// Changes of colour.
    pub jitter: JitterConfig,
}

/// Elastic deformation (Simard et al. 2003): each pixel is moved by noise, even within -1 and 1, that was smoothed and
/// then multiplied by the amplitude.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ElasticConfig {
    /// Pixels of the crop; what moves pixels is about `0.16 / smoothness_px` of it (root mean square). 0: off.
    pub amplitude_px: f32,
    /// Standard deviation of the Gaussian that smooths the noise, pixels of the crop.
    pub smoothness_px: f32,
}

/// Changes of colour, with the meaning of torchvision's `ColorJitter`, in an order that is drawn anew for each crop.
/// Two differences make all of them one linear map: the hue turns about the grey axis of RGB instead of HSV's circle,
/// and values are clipped once, at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JitterConfig {
    /// Greatest change of the factor on all values.
    pub brightness: f32,
    /// Greatest change of the factor on the differences to the crop's mean grey.
    pub contrast: f32,
    /// Greatest change of the factor on the differences to the pixel's own grey.
    pub saturation: f32,
    /// Greatest turn of the hue, as a share of the colour circle.
    pub hue: f32,
}

impl Default for ElasticConfig {
    /// Off.
    fn default() -> Self {
        Self { amplitude_px: 0.0, smoothness_px: 5.0 }
    }
}

impl Default for AugmentConfig {
    /// A mirror image half of the time, nothing else.
    fn default() -> Self {
        Self {
            focal_length_px: 0.0,
            flip: 0.5,
            vertical_flip: 0.0,
            rotation_deg: 0.0,
            stretch: 1.0,
            aspect: 1.0,
            elastic: ElasticConfig::default(),
            jitter: JitterConfig::default(),
        }
    }
}

impl AugmentConfig {
    /// Nothing happens to the frame but its scale and aspect.
    pub fn still(&self) -> Self {
        Self { focal_length_px: self.focal_length_px, flip: 0.0, aspect: self.aspect, ..Self::default() }
    }

    /// Checks the values' ranges.
    ///
    /// # Errors
    /// Names the key, what was expected and what was found.
    pub fn check(&self) -> anyhow::Result<()> {
        let within = |name: &str, v: f64, low: f64, high: f64| {
            anyhow::ensure!((low..=high).contains(&v), "augment.{name}: expected {low} to {high}, found {v}");
            Ok(())
        };
        within("flip", self.flip, 0.0, 1.0)?;
        within("vertical_flip", self.vertical_flip, 0.0, 1.0)?;
        within("rotation_deg", self.rotation_deg.into(), 0.0, 180.0)?;
        within("stretch", self.stretch.into(), 1.0, 4.0)?;
        within("aspect", self.aspect.into(), 0.25, 4.0)?;
        within("elastic.amplitude_px", self.elastic.amplitude_px.into(), 0.0, 1e4)?;
        within("elastic.smoothness_px", self.elastic.smoothness_px.into(), 0.1, 100.0)?;
        within("jitter.brightness", self.jitter.brightness.into(), 0.0, 10.0)?;
        within("jitter.contrast", self.jitter.contrast.into(), 0.0, 10.0)?;
        within("jitter.saturation", self.jitter.saturation.into(), 0.0, 10.0)?;
        within("jitter.hue", self.jitter.hue.into(), 0.0, 0.5)?;
        let f = self.focal_length_px;
        anyhow::ensure!(f >= 0.0 && f.is_finite(), "augment.focal_length_px: expected 0 or more, found {f}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        let check = |text: &str| {
            let config: AugmentConfig = serde_yaml::from_str(text).expect("well-formed");
            config.check().map_err(|e| e.to_string())
        };
        assert_eq!(check("{vertical_flip: 0.2, jitter: {hue: 0.5}, elastic: {amplitude_px: 30}}"), Ok(()));
        for (text, message) in [
            ("{flip: 2}", "augment.flip: expected 0 to 1, found 2"),
            ("{stretch: 0.5}", "augment.stretch: expected 1 to 4, found 0.5"),
            ("{jitter: {hue: 0.75}}", "augment.jitter.hue: expected 0 to 0.5, found 0.75"),
            ("{elastic: {smoothness_px: 0}}", "augment.elastic.smoothness_px: expected 0.1 to 100, found 0"),
            ("{rotation_deg: .nan}", "augment.rotation_deg: expected 0 to 180, found NaN"),
        ] {
            assert_eq!(check(text), Err(message.to_string()));
        }
        assert!(serde_yaml::from_str::<AugmentConfig>("{jitter: {hues: 0.1}}").is_err());
    }
}
