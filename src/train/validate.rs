//! A quick look at the validation frames during training; `semantic_depth evaluate` is the judge.
//!
//! Whole frames, scored at every second pixel of the network's input, in the classes that `evaluate` judges the source in.

use super::config::TrainConfig;
use super::labels::LabelTable;
use super::origin;
use super::packed::{collate, Batch};
use crate::data::augment::{self, AugmentConfig, Crop, CropSize};
use crate::data::classes::UNLABELLED_TRAIN_ID;
use crate::data::depth;
use crate::data::frame::Decoded;
use crate::eval::normals::NormalErrors;
use crate::eval::{ClassTable, Confusion, DepthErrors};
use crate::model::{Network, Task};
use rand::SeedableRng as _;
use rand_pcg::Pcg32;
use tch::{Device, Kind, Tensor};

/// Pixels of the network's input to a scored one.
const STRIDE: usize = 2;

/// Validation frames of one source.
#[derive(Debug)]
pub struct Watched {
    /// The source's name.
    pub name: String,
    /// Pixels of the network's input a pixel of the frame.
    pub scale: f32,
    /// Its horizontal over its vertical part.
    pub aspect: f32,
    /// What its labels are judged as.
    pub classes: ClassTable,
    /// The split as it was indexed, of which some are looked at.
    pub origin: origin::Frames,
    /// Decoded.
    pub frames: Vec<Decoded>,
}

/// What a look at one source found; a measure that cannot be taken is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Validation {
    /// Mean IoU over the source's classes.
    pub miou: Option<f64>,
    /// Mean relative depth error.
    pub abs_rel: Option<f64>,
    /// Mean angle between true and predicted surface normals, degrees.
    pub normal_deg: Option<f64>,
}

/// What the network says to one frame, beside the truth, at every `STRIDE`-th pixel.
#[derive(Debug)]
pub struct Look {
    /// What went in.
    pub crop: Crop,
    /// With the truth of every task.
    pub batch: Batch,
    /// Pixels.
    pub size: CropSize,
    /// Best channel of each pixel; empty without a segmentation head.
    pub channels: Vec<u8>,
    /// Depth code; empty without a depth head.
    pub depth: Vec<f32>,
    /// `[3, h, w]`; empty without that head.
    pub normals: Vec<f32>,
    /// Before the logistic function; empty without that head.
    pub edges: Vec<f32>,
}

impl Watched {
    /// What the network says to one of the frames.
    pub fn look(&self, index: usize, network: &Network, table: &LabelTable, config: &LookConfig<'_>) -> Look {
        let frame = &self.frames[index];
        let side = |n: usize, scale: f32| ((n as f32 * scale).round() as usize).max(32);
        let (root, scale) = (self.aspect.sqrt(), self.scale);
        let size = CropSize {
            size: (side(frame.width, scale * root), side(frame.height, scale / root)),
            scale: (scale, scale),
            stride: STRIDE,
        };
        let still = AugmentConfig { aspect: self.aspect, ..config.augment.clone() };
        let crop = augment::crop(frame, &size, &still, &mut Pcg32::seed_from_u64(0));
        let tasks = &network.config().heads;
        let batch = collate(std::slice::from_ref(&crop), &size, table, tasks);
        let images = batch.images.to_device(config.device).to_kind(config.kind);
        let plane = batch.labels.size();
        let answers = tch::no_grad(|| network.forward_heads_t(&images, false));
        let resized = |task| answers.get_resized(task, plane[1], plane[2]);
        let flat = |t: Tensor| t.to_device(Device::Cpu).contiguous().view([-1]);
        let floats = |task| resized(task).and_then(|t| Vec::<f32>::try_from(flat(t)).ok()).unwrap_or_default();
        // Without the last channel, "unlabelled": an answer is always a class.
        let scored = table.channels() as i64 - 1;
        let best =
            resized(Task::Segmentation).map(|s| flat(s.narrow(1, 0, scored).argmax(1, false).to_kind(Kind::Uint8)));
        Look {
            channels: best.and_then(|t| Vec::<u8>::try_from(t).ok()).unwrap_or_default(),
            depth: floats(Task::Depth),
            normals: floats(Task::Normals),
            edges: floats(Task::Edges),
            crop,
            batch,
            size,
        }
    }

    /// Looks at all frames.
    pub fn validate(&self, network: &Network, table: &LabelTable, config: &LookConfig<'_>) -> Validation {
        let mut confusion = Confusion::new(self.classes.len());
        let (mut truth, mut answer) = (Vec::new(), Vec::new());
        let (mut errors, mut angles) = (DepthErrors::new(), NormalErrors::default());
        for index in 0..self.frames.len() {
            let look = self.look(index, network, table, config);
            if !look.channels.is_empty() {
                let predicted: Vec<u8> = look.channels.iter().map(|&c| table.train_id(c)).collect();
                self.classes.translate(&look.crop.labels, &predicted, &mut truth, &mut answer);
                confusion.add(&truth, &answer);
            }
            if !look.depth.is_empty() {
                // How far depth is judged is a matter of the frame's own metres. What is coded as farthest is farther still.
                let factor = look.crop.depth_factor;
                let metres = |code: f32| depth::decode(code) / factor;
                let farthest = depth::encode(depth::MAX_DEPTH_M).unwrap_or(f32::INFINITY);
                let true_metres = |code| if code >= farthest { f32::INFINITY } else { metres(code) };
                let of =
                    |codes: &[f32], metres: &dyn Fn(f32) -> f32| codes.iter().map(|&c| metres(c)).collect::<Vec<_>>();
                errors.add(&of(&look.crop.depth, &true_metres), &of(&look.depth, &metres));
            }
            add_normals(&look, &mut angles);
        }
        let depth = errors.report();
        Validation {
            miou: Some(confusion.miou()).filter(|m| m.is_finite()),
            abs_rel: (depth.pixels > 0).then_some(depth.abs_rel),
            normal_deg: angles.report().map(|r| r.mean_deg).filter(|degrees| degrees.is_finite()),
        }
    }
}

/// Against the truth of the batch, where it has normals.
fn add_normals(look: &Look, errors: &mut NormalErrors) {
    let truth = look.batch.normals.as_ref().map(|t| t.contiguous().view([-1]));
    let truth = truth.and_then(|t| Vec::<f32>::try_from(t).ok()).filter(|t| t.len() == look.normals.len());
    if let Some(truth) = truth {
        errors.add_planes(&truth, &look.normals);
    }
}

/// How a look is taken.
#[derive(Debug)]
pub struct LookConfig<'a> {
    /// Without anything random.
    pub augment: &'a AugmentConfig,
    /// Number format of the network's input.
    pub kind: Kind,
    /// Where the network is.
    pub device: Device,
}

/// Whether any validation frame has the truth that the watched measure needs.
pub fn can_be_watched(config: &TrainConfig, watched: &[Watched]) -> bool {
    let (source, measure) = config.watch.best_of();
    let has_truth = |frame: &Decoded| {
        if measure == "miou" {
            frame.labels.iter().flatten().any(|&label| label != UNLABELLED_TRAIN_ID)
        } else {
            frame.depth_m.iter().flatten().any(|depth| depth.is_finite())
        }
    };
    watched.iter().filter(|w| source.is_none_or(|s| s == w.name)).flat_map(|w| &w.frames).any(has_truth)
}

/// The watched measure of several sources: its value and whether more is better.
pub fn watched(config: &TrainConfig, found: &[(String, Validation)]) -> Option<(f64, bool)> {
    let (source, measure) = config.watch.best_of();
    let of = |v: &Validation| if measure == "miou" { v.miou } else { v.abs_rel };
    let values: Vec<f64> =
        found.iter().filter(|(name, _)| source.is_none_or(|s| s == name)).filter_map(|(_, v)| of(v)).collect();
    (!values.is_empty()).then(|| (values.iter().sum::<f64>() / values.len() as f64, measure == "miou"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_needs_truth_in_its_source() {
        let watched = |name: &str, labels: Option<Vec<u8>>, depth_m: Option<Vec<f32>>| Watched {
            name: name.into(),
            scale: 1.0,
            aspect: 1.0,
            classes: ClassTable::cityscapes(),
            origin: origin::Frames::default(),
            frames: vec![Decoded {
                width: 2,
                height: 1,
                rgb: vec![0; 6],
                labels,
                depth_m,
                focal_px: None,
                principal_px: None,
            }],
        };
        let sources = [
            watched("labels", Some(vec![19, 3]), Some(vec![f32::NAN; 2])),
            watched("depth", Some(vec![19; 2]), Some(vec![f32::NAN, 5.0])),
            watched("bare", None, None),
        ];
        let can = |best: &str, sources: &[Watched]| {
            let text = format!("sources: []\nphases: []\nwatch: {{best: {best}}}");
            can_be_watched(&serde_yaml::from_str(&text).expect("a configuration"), sources)
        };
        assert!(can("miou", &sources) && can("abs_rel", &sources) && can("labels/miou", &sources));
        for (best, only) in [("labels/abs_rel", 0..3), ("depth/miou", 0..3), ("bare/miou", 0..3), ("miou", 1..3)] {
            assert!(!can(best, &sources[only]), "{best}");
        }
    }
}
