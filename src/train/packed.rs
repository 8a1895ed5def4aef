//! A batch as it lies in host memory on its way to the network: made by several threads at once, each crop in its place,
//! and no larger than it must be, since all of it goes through the bus to a GPU.
#![allow(unsafe_code)]

use super::labels::{LabelTable, IGNORED, IGNORED_BYTE};
use super::targets;
use crate::cpu::values;
use crate::data::augment::{Crop, CropSize};
use crate::data::depth;
use crate::eval::JUDGED_M;
use crate::model::Task;
use half::bf16;
use tch::{Device, Kind, Tensor};

/// One batch of crops.
#[derive(Debug)]
pub struct Batch {
    /// `[B, 3, H, W]`, normalised, channels last in memory.
    pub images: Tensor,
    /// `[B, h, w]` int64 of [`LabelTable`]; -100 where unlabelled.
    pub labels: Tensor,
    /// `[B, h, w]` float32 depth code, NaN where not known.
    pub depth: Tensor,
    /// `[B, 1, 1]` float32: code of the farthest depth that is judged ([`JUDGED_M`]).
    pub judged_to: Tensor,
    /// `[B, 3, h, w]` float32 unit surface normals, NaN where not known; only for a network with that head.
    pub normals: Option<Tensor>,
    /// `[B, h, w]` float32 semantic edges, 0 or 1, NaN where not known; only for a network with that head.
    pub edges: Option<Tensor>,
}

/// Puts crops of one size together, with the truth that the tasks need, in float32 on the processor.
pub fn collate(crops: &[Crop], size: &CropSize, table: &LabelTable, tasks: &[Task]) -> Batch {
    let mut packed = Packed::new(crops.len(), size, tasks, Kind::Float, Device::Cpu);
    let codes = table.codes();
    packed.rows().into_iter().zip(crops).for_each(|(row, crop)| row.fill(crop, &codes));
    packed.to(Device::Cpu)
}

/// Crops of one size, with the truth that the tasks need. Everything is contiguous.
#[derive(Debug)]
pub struct Packed {
    /// `[B, H, W, 3]` float32, or bfloat16 where that is what the network computes in.
    images: Tensor,
    /// `[B, h, w]` uint8 of [`LabelTable::codes`].
    labels: Tensor,
    /// `[B, h, w]` float32.
    depth: Tensor,
    /// `[B, 1, 1]` float32.
    judged_to: Tensor,
    /// `[B, 3, h, w]` float32.
    normals: Option<Tensor>,
    /// `[B, h, w]` float32.
    edges: Option<Tensor>,
    /// Columns and rows of the truth.
    plane: (usize, usize),
}

/// Where one crop of a [`Packed`] lies.
#[derive(Debug)]
pub struct Row<'a> {
    images: Pixels<'a>,
    labels: &'a mut [u8],
    depth: &'a mut [f32],
    judged_to: &'a mut f32,
    normals: Option<&'a mut [f32]>,
    edges: Option<&'a mut [f32]>,
    plane: (usize, usize),
}

#[derive(Debug)]
enum Pixels<'a> {
    Float(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

impl Row<'_> {
    /// Writes a crop; `codes` are [`LabelTable::codes`].
    ///
    /// # Panics
    /// The crop is of another size.
    pub fn fill(self, crop: &Crop, codes: &[u8; 256]) {
        match self.images {
            Pixels::Float(out) => out.copy_from_slice(&crop.pixels),
            Pixels::Bf16(out) => {
                assert_eq!(out.len(), crop.pixels.len(), "a crop of the batch's size");
                out.iter_mut().zip(&crop.pixels).for_each(|(o, &v)| *o = bf16::from_f32(v));
            }
        }
        assert_eq!(self.labels.len(), crop.labels.len(), "truth of the batch's size");
        self.labels.iter_mut().zip(&crop.labels).for_each(|(o, &code)| *o = codes[usize::from(code)]);
        self.depth.copy_from_slice(&crop.depth);
        *self.judged_to = depth::encode(JUDGED_M.1 * crop.depth_factor).unwrap_or(f32::INFINITY);
        let (width, height) = self.plane;
        if let Some(out) = self.normals {
            out.copy_from_slice(&targets::normals_of(crop, width, height));
        }
        if let Some(out) = self.edges {
            out.copy_from_slice(&targets::edges_of(crop, width, height));
        }
    }
}

impl Packed {
    /// Room for `crops` crops on their way to `device`, with what the tasks need; `kind` is the network's number format.
    pub fn new(crops: usize, size: &CropSize, tasks: &[Task], kind: Kind, device: Device) -> Self {
        let (b, (width, height)) = (crops as i64, size.size);
        let plane = (width.div_ceil(size.stride), height.div_ceil(size.stride));
        let (w, h) = (plane.0 as i64, plane.1 as i64);
        let kind = if kind == Kind::BFloat16 { kind } else { Kind::Float };
        let room = |shape: &[i64], kind: Kind| {
            let room = Tensor::empty(shape, (kind, Device::Cpu));
            // From locked memory a copy to the GPU is quicker and nobody waits for it. Where there is none to have, it
            // goes without.
            match device {
                Device::Cuda(_) => room.f_pin_memory(device).unwrap_or(room),
                _ => room,
            }
        };
        Self {
            images: room(&[b, height as i64, width as i64, 3], kind),
            labels: room(&[b, h, w], Kind::Uint8),
            depth: room(&[b, h, w], Kind::Float),
            judged_to: room(&[b, 1, 1], Kind::Float),
            normals: tasks.contains(&Task::Normals).then(|| room(&[b, 3, h, w], Kind::Float)),
            edges: tasks.contains(&Task::Edges).then(|| room(&[b, h, w], Kind::Float)),
            plane,
        }
    }

    /// Crops of it.
    pub fn crops(&self) -> usize {
        self.labels.size()[0] as usize
    }

    /// The places of its crops, to be filled all of them.
    pub fn rows(&mut self) -> Vec<Row<'_>> {
        let crops = self.crops();
        if crops == 0 {
            return Vec::new();
        }
        // SAFETY: the kinds are those that `new` gave, the tensors are contiguous and in host memory, nobody else has them,
        // and the slices borrow `self` mutably.
        let (images, labels, depth) = unsafe {
            let images = match self.images.kind() {
                Kind::BFloat16 => parts::<bf16>(&mut self.images, crops).map(Pixels::Bf16).collect::<Vec<_>>(),
                _ => parts::<f32>(&mut self.images, crops).map(Pixels::Float).collect(),
            };
            (images, parts::<u8>(&mut self.labels, crops), parts::<f32>(&mut self.depth, crops))
        };
        // SAFETY: as above.
        let judged_to = unsafe { values::<f32>(&mut self.judged_to) };
        // SAFETY: as above.
        let mut normals = self.normals.as_mut().map(|t| unsafe { parts::<f32>(t, crops) });
        // SAFETY: as above.
        let mut edges = self.edges.as_mut().map(|t| unsafe { parts::<f32>(t, crops) });
        let plane = self.plane;
        let row = |(((images, labels), depth), judged_to)| Row {
            images,
            labels,
            depth,
            judged_to,
            normals: normals.as_mut().and_then(Iterator::next),
            edges: edges.as_mut().and_then(Iterator::next),
            plane,
        };
        images.into_iter().zip(labels).zip(depth).zip(judged_to).map(row).collect()
    }

    /// As the network and the losses take it, on a device. To a GPU this only asks for the copies.
    pub fn to(&self, device: Device) -> Batch {
        let to = |t: &Tensor| t.to_device_(device, t.kind(), true, false);
        let labels = to(&self.labels).to_kind(Kind::Int64);
        Batch {
            // (B, H, W, 3) in memory, seen as (B, 3, H, W): the layout that convolutions are quickest with.
            images: to(&self.images).permute([0, 3, 1, 2]),
            labels: labels.masked_fill(&labels.eq(i64::from(IGNORED_BYTE)), IGNORED),
            depth: to(&self.depth),
            judged_to: to(&self.judged_to),
            normals: self.normals.as_ref().map(to),
            edges: self.edges.as_ref().map(to),
        }
    }
}

/// The memory of a tensor in `n` equal parts.
///
/// # Safety
/// As [`values`].
unsafe fn parts<T>(t: &mut Tensor, n: usize) -> std::slice::ChunksExactMut<'_, T> {
    let length = t.numel() / n;
    // SAFETY: the caller's conditions.
    unsafe { values::<T>(t) }.chunks_exact_mut(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::source::Groups;
    use crate::train::config::LabelSpace;

    fn crop(value: f32, label: u8, (w, h): (usize, usize)) -> Crop {
        Crop {
            pixels: (0..w * h * 3).map(|i| value + i as f32 / 7.0).collect(),
            labels: vec![label; w * h / 4],
            depth: vec![value; w * h / 4],
            depth_factor: value.abs(),
            focal_px: None,
            principal_px: (1.0, 1.0),
        }
    }

    #[test]
    fn every_crop_is_in_its_place() {
        let size = CropSize { size: (8, 4), scale: (1.0, 1.0), stride: 2 };
        let codes = LabelTable::new(LabelSpace::TrainIds, &Groups::default()).codes();
        let crops = [crop(1.0, 3, size.size), crop(-2.0, 19, size.size)];
        for kind in [Kind::Float, Kind::BFloat16] {
            let mut packed =
                Packed::new(2, &size, &[Task::Segmentation, Task::Normals, Task::Edges], kind, Device::Cpu);
            packed.rows().into_iter().zip(&crops).for_each(|(row, crop)| row.fill(crop, &codes));
            let batch = packed.to(Device::Cpu);
            assert_eq!((batch.images.size(), batch.images.kind()), (vec![2, 3, 4, 8], kind));
            for (b, crop) in crops.iter().enumerate() {
                let expected = Tensor::from_slice(&crop.pixels).view([4, 8, 3]).permute([2, 0, 1]).to_kind(kind);
                assert_eq!(batch.images.get(b as i64), expected, "as libtorch rounds");
                assert_eq!(batch.depth.double_value(&[b as i64, 1, 3]), f64::from(crop.depth[0]));
                let judged_to = batch.judged_to.double_value(&[b as i64, 0, 0]);
                assert!(
                    (judged_to - [80.0_f64, 160.0][b].ln() / 5.0).abs() < 1e-6,
                    "80 m of the frame's own: {judged_to}"
                );
            }
            assert_eq!(batch.labels, Tensor::from_slice(&[3_i64, IGNORED]).view([2, 1, 1]).expand([2, 2, 4], false));
            assert_eq!(batch.normals.map(|t| t.size()), Some(vec![2, 3, 2, 4]));
            let edges = batch.edges.expect("asked for");
            assert!(edges.double_value(&[0, 0, 0]) == 0.0 && edges.double_value(&[1, 0, 0]).is_nan());
        }
        assert!(Packed::new(0, &size, &[], Kind::Float, Device::Cpu).rows().is_empty());
    }
}
