//! A stereo network as teacher: any TorchScript module of two pictures (docs/DEPTH.md has the signature and the export).

use super::Disparity;
use crate::frame::network::{device_name, torch_error, NetworkError};
use image::imageops::{resize, FilterType};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use std::path::Path;
use tch::{CModule, Device, IValue, Kind, TchError, Tensor};

/// What the network takes for white.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueRange {
    /// 255, as CREStereo and RAFT-Stereo do.
    #[default]
    Bytes,
    /// 1.
    Unit,
}

/// What the network calls the disparity of a thing that is further left in the right picture (all things are).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// A positive number.
    #[default]
    Positive,
    /// A negative one: a flow from left to right, as of RAFT-Stereo.
    Negative,
}

/// How the network is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeacherOptions {
    /// Of the input.
    pub range: ValueRange,
    /// Of the answer.
    pub sign: Sign,
    /// The input is resized to this width and height, and disparity back; for modules traced at one size.
    pub size: Option<(usize, usize)>,
    /// Width and height are padded to multiples of this, at the right and at the bottom, by repeating the edge.
    pub multiple: usize,
}

impl Default for TeacherOptions {
    fn default() -> Self {
        Self { range: ValueRange::Bytes, sign: Sign::Positive, size: None, multiple: 32 }
    }
}

/// Why a teacher does not teach.
#[derive(Debug, thiserror::Error)]
pub enum TeacherError {
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] NetworkError),
    /// The pictures of a pair differ.
    #[error("expected a left and a right picture of one size, found {0:?} and {1:?}")]
    Sizes((u32, u32), (u32, u32)),
    /// The module answered something else than a disparity.
    #[error("the teacher answered {found}; expected {expected}")]
    Answer {
        /// What came.
        found: String,
        /// What should have come, and what to do.
        expected: String,
    },
}

/// A loaded network.
#[derive(Debug)]
pub struct Teacher {
    module: CModule,
    device: Device,
    options: TeacherOptions,
}

impl Teacher {
    /// Loads a module.
    ///
    /// # Errors
    /// It is no TorchScript of this libtorch, or the device has no room for it.
    pub fn load(path: &Path, device: Device, options: TeacherOptions) -> Result<Self, TeacherError> {
        let what = format!("load the teacher {} on {}", path.display(), device_name(device));
        let mut module = CModule::load_on_device(path, device).map_err(torch_error(what))?;
        module.set_eval();
        Ok(Self { module, device, options })
    }

    /// Disparity of the left picture of a rectified pair.
    ///
    /// # Errors
    /// Pictures of different sizes, or a module that cannot run, or that answers something of another shape or sign.
    pub fn run(&self, left: &RgbImage, right: &RgbImage) -> Result<Disparity, TeacherError> {
        if left.dimensions() != right.dimensions() {
            return Err(TeacherError::Sizes(left.dimensions(), right.dimensions()));
        }
        let _no_grad = tch::no_grad_guard();
        let (width, height) = (left.width() as usize, left.height() as usize);
        let (inner_w, inner_h) = self.options.size.unwrap_or((width, height));
        let input = |picture| self.input(picture, inner_w, inner_h).map_err(torch_error("make the teacher's input"));
        let (left, right) = (input(left)?, input(right)?);
        let padded = (left.size()[2], left.size()[3]);
        let answer = self
            .module
            .forward_is(&[IValue::Tensor(left), IValue::Tensor(right)])
            .map_err(torch_error("run the teacher on two pictures"))?;
        let map = plane(answer, padded)?;
        let values = self.values(&map, (inner_w, inner_h), (width, height)).map_err(torch_error("read the answer"))?;
        let values = self.with_sign(values)?;
        Ok(Disparity { width, height, px: values })
    }

    /// `[1, 3, H, W]`.
    fn input(&self, picture: &RgbImage, width: usize, height: usize) -> Result<Tensor, TchError> {
        let size = (width as u32, height as u32);
        let resized = (picture.dimensions() != size).then(|| resize(picture, size.0, size.1, FilterType::Triangle));
        let picture = resized.as_ref().unwrap_or(picture);
        let (w, h) = (width as i64, height as i64);
        let pixels = Tensor::f_from_data_size(picture.as_raw(), &[1, h, w, 3], Kind::Uint8)?;
        let pixels = pixels.f_to_device(self.device)?.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?;
        let pixels = match self.options.range {
            ValueRange::Bytes => pixels,
            ValueRange::Unit => pixels.f_div_scalar(255.0)?,
        };
        let pad = |n: usize| (n.next_multiple_of(self.options.multiple.max(1)) - n) as i64;
        pixels.f_replication_pad2d([0, pad(width), 0, pad(height)])?.f_contiguous()
    }

    /// The plane without its padding, as pixels of the original size.
    fn values(&self, map: &Tensor, inner: (usize, usize), size: (usize, usize)) -> Result<Vec<f32>, TchError> {
        let map = map.f_narrow(0, 0, inner.1 as i64)?.f_narrow(1, 0, inner.0 as i64)?;
        let mut map = map.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
        if inner != size {
            // Nearest: between two surfaces no mean of their disparities may appear.
            let scale = size.0 as f64 / inner.0 as f64;
            let map4 = map.f_unsqueeze(0)?.f_unsqueeze(0)?;
            let out = [size.1 as i64, size.0 as i64];
            map = map4.f_internal_upsample_nearest_exact2d(out, None, None)?.f_mul_scalar(scale)?;
        }
        Vec::<f32>::try_from(map.f_contiguous()?.f_view([-1])?)
    }

    /// Positive disparities; what is not finite becomes NaN.
    fn with_sign(&self, mut values: Vec<f32>) -> Result<Vec<f32>, TeacherError> {
        let sign = match self.options.sign {
            Sign::Positive => 1.0,
            Sign::Negative => -1.0,
        };
        let (mut finite, mut wrong) = (0_usize, 0_usize);
        for v in &mut values {
            *v = if v.is_finite() { *v * sign } else { f32::NAN };
            finite += usize::from(v.is_finite());
            wrong += usize::from(*v < 0.0);
        }
        if finite == 0 {
            return Err(TeacherError::Answer { found: "no finite number".into(), expected: "disparity".into() });
        }
        if 2 * wrong > finite {
            let share = 100.0 * wrong as f64 / finite as f64;
            let (asked, found) = match self.options.sign {
                Sign::Positive => ("positive", "negative"),
                Sign::Negative => ("negative", "positive"),
            };
            return Err(TeacherError::Answer {
                found: format!("{found} disparity at {share:.0} % of the pixels"),
                expected: format!(
                    "{asked} ones: pass --teacher-sign {found}, or see that left and right are not swapped"
                ),
            });
        }
        Ok(values)
    }
}

/// The last tensor of an answer: networks that refine step by step list their steps.
fn last_tensor(answer: IValue) -> Result<Tensor, String> {
    match answer {
        IValue::Tensor(tensor) => Ok(tensor),
        IValue::TensorList(mut list) => list.pop().ok_or_else(|| "an empty list".into()),
        IValue::Tuple(mut list) | IValue::GenericList(mut list) => {
            list.pop().map_or_else(|| Err("an empty list".into()), last_tensor)
        }
        other => Err(format!("{other:?}").chars().take(60).collect()),
    }
}

/// The disparity of an answer, `[H, W]` of the padded input's size.
fn plane(answer: IValue, (h, w): (i64, i64)) -> Result<Tensor, TeacherError> {
    let expected = || {
        format!(
            "one tensor [1, 1, {h}, {w}], [1, {h}, {w}] or [1, 2, {h}, {w}] (a flow: x, y) of the padded input's size, or \
             a list whose last one is that"
        )
    };
    let refuse = |found: String| TeacherError::Answer { found, expected: expected() };
    let tensor = last_tensor(answer).map_err(refuse)?;
    let size = tensor.size();
    let kind = tensor.f_kind().map_err(torch_error("take the kind of the teacher's answer"))?;
    if !matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double) {
        return Err(refuse(format!("numbers of kind {kind:?}")));
    }
    let view = match *size.as_slice() {
        [1, 1 | 2, a, b] if (a, b) == (h, w) => tensor.f_select(0, 0).and_then(|t| t.f_select(0, 0)),
        [1, a, b] if (a, b) == (h, w) => tensor.f_select(0, 0),
        _ => return Err(refuse(format!("a tensor of shape {size:?}"))),
    };
    Ok(view.map_err(torch_error("take the teacher's disparity"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module traced from two pictures of `size` (width, height) to one tensor.
    fn traced(
        size: (i64, i64),
        mut f: impl FnMut(&Tensor, &Tensor) -> Tensor,
    ) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("teacher.pt");
        let input = || Tensor::rand([1, 3, size.1, size.0], (Kind::Float, Device::Cpu));
        let mut closure = |inputs: &[Tensor]| vec![f(&inputs[0], &inputs[1])];
        let module = CModule::create_by_tracing("Teacher", "forward", &[input(), input()], &mut closure);
        module.expect("traced").save(&path).expect("saved");
        (folder, path)
    }

    fn teach(path: &Path, options: TeacherOptions, (w, h): (u32, u32)) -> Result<Disparity, TeacherError> {
        let picture = |v| RgbImage::from_pixel(w, h, image::Rgb([v; 3]));
        Teacher::load(path, Device::Cpu, options)?.run(&picture(200), &picture(150))
    }

    fn refused(path: &Path, options: TeacherOptions) -> String {
        teach(path, options, (60, 40)).expect_err("refused").to_string()
    }

    /// The first channel of the left picture less that of the right one: 50, or 50 / 255.
    fn difference(left: &Tensor, right: &Tensor) -> Tensor {
        left.narrow(1, 0, 1) - right.narrow(1, 0, 1)
    }

    #[test]
    fn pictures_come_in_order_in_their_range_padded_and_go_back_to_their_size() {
        let (_folder, path) = traced((64, 64), difference);
        let options = TeacherOptions::default();
        let d = teach(&path, options, (60, 40)).expect("taught");
        assert_eq!((d.width, d.height), (60, 40));
        assert!(d.px.iter().all(|&d| d == 50.0), "{:?}", &d.px[..4]);
        let d = teach(&path, TeacherOptions { range: ValueRange::Unit, ..options }, (60, 40)).expect("taught");
        assert!(d.px.iter().all(|&d| (d - 50.0 / 255.0).abs() < 1e-6), "{:?}", &d.px[..4]);
        // Half the size inside: twice the disparity outside.
        let d = teach(&path, TeacherOptions { size: Some((30, 20)), ..options }, (60, 40)).expect("taught");
        assert!(d.px.len() == 60 * 40 && d.px.iter().all(|&d| d == 100.0), "{:?}", &d.px[..4]);
    }

    #[test]
    fn a_flow_is_taken_at_its_x_with_its_sign() {
        let (_folder, path) =
            traced((64, 64), |l, r| Tensor::cat(&[-difference(l, r), difference(l, r) * 0.0 + 7.0], 1));
        let negative = TeacherOptions { sign: Sign::Negative, ..TeacherOptions::default() };
        assert!(teach(&path, negative, (60, 40)).expect("taught").px.iter().all(|&d| d == 50.0));
        let error = refused(&path, TeacherOptions::default());
        assert!(error.contains("--teacher-sign negative") && error.contains("100 %"), "{error}");
        let (_folder, path) = traced((64, 64), |l, r| difference(l, r).squeeze_dim(1));
        assert!(teach(&path, TeacherOptions::default(), (60, 40)).expect("[1, H, W]").px.iter().all(|&d| d == 50.0));
        assert!(refused(&path, negative).contains("--teacher-sign positive"));
    }

    #[test]
    fn other_answers_are_refused_with_what_was_found() {
        let options = TeacherOptions::default();
        let (_folder, path) =
            traced((64, 64), |l, r| difference(l, r).avg_pool2d([4, 4], [4, 4], [0, 0], false, true, None));
        let error = refused(&path, options);
        assert!(error.contains("[1, 1, 16, 16]") && error.contains("[1, 2, 64, 64]"), "{error}");
        let (_folder, path) = traced((64, 64), |l, r| difference(l, r).to_kind(Kind::Int64));
        assert!(refused(&path, options).contains("Int64"));
        let (_folder, path) = traced((64, 64), |l, r| difference(l, r) / 0.0);
        assert!(refused(&path, options).contains("no finite number"));
    }

    #[test]
    fn what_is_no_module_of_two_pictures_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("weights.pth");
        std::fs::write(&path, b"not TorchScript").expect("written");
        let error = refused(&path, TeacherOptions::default());
        assert!(error.contains("weights.pth") && error.contains("libtorch could not load the teacher"), "{error}");
        let one = folder.path().join("one.pt");
        let input = Tensor::rand([1, 3, 64, 64], (Kind::Float, Device::Cpu));
        let module = CModule::create_by_tracing("One", "forward", &[input], &mut |i: &[Tensor]| vec![&i[0] * 2.0]);
        module.expect("traced").save(&one).expect("saved");
        let error = refused(&one, TeacherOptions::default());
        assert!(error.contains("run the teacher on two pictures"), "{error}");
        let teacher = Teacher::load(&one, Device::Cpu, TeacherOptions::default()).expect("loaded");
        let error = teacher.run(&RgbImage::new(4, 4), &RgbImage::new(5, 4)).expect_err("sizes").to_string();
        assert!(error.contains("(4, 4) and (5, 4)"), "{error}");
    }
}
