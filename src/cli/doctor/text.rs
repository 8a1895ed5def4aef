//! The report as text.

use super::{Answer, Checked, Model, Report, Verdict, Way};
use crate::model::Task;
use crate::tensorrt::archive::DeviceKind;
use crate::tensorrt::Archive;
use std::fmt::{self, Write as _};

/// `-` where nothing is known.
fn or_dash<T: fmt::Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".into(), T::to_string)
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "semantic_depth {}, {}", self.version, self.date)?;
        let s = &self.system;
        writeln!(f, "\nsystem\n  {}, kernel {}, {}", s.os, s.kernel, s.architecture)?;
        if let Some(board) = &s.board {
            writeln!(f, "  board: {board}")?;
        }
        if let Some(jetson) = &s.jetson {
            writeln!(f, "  {jetson}")?;
        }
        writeln!(f, "  processor: {}, {} cores: {}", s.cpu, s.cores, s.cpu_features.join(" "))?;
        writeln!(f, "  memory: {}", or_dash(s.memory_bytes.map(gib).as_ref()))?;
        for (name, value) in &self.environment {
            writeln!(f, "  {name}={value}")?;
        }
        writeln!(f, "\nCUDA")?;
        match &self.cuda.0 {
            Err(error) => writeln!(f, "  none: {error}")?,
            Ok(driver) => {
                writeln!(f, "  driver {}, serves CUDA up to {}", or_dash(driver.version.as_ref()), driver.cuda)?;
                for gpu in &driver.gpus {
                    let (name, memory) = (&gpu.name, gib(gpu.memory_bytes));
                    writeln!(
                        f,
                        "  cuda:{}: {name}, compute capability {}, {memory}",
                        gpu.index, gpu.compute_capability
                    )?;
                }
            }
        }
        let l = &self.libtorch;
        writeln!(f, "\nlibtorch (expected {})", l.expected)?;
        let folder = l.folder.as_ref().map(|p| p.display());
        writeln!(f, "  version {} in {}", or_dash(l.version.as_ref()), or_dash(folder.as_ref()))?;
        let cuda_half = l.cuda_half.as_ref().map(|p| p.display());
        writeln!(f, "  CUDA half: {}", or_dash(cuda_half.as_ref()))?;
        writeln!(f, "\nTensorRT (expected Torch-TensorRT {})", self.tensorrt.expected)?;
        for part in &self.tensorrt.libraries {
            let path = part.path.as_ref().map(|p| p.display());
            write!(f, "  {}: {}", part.name, or_dash(path.as_ref()))?;
            let parts = [part.version.as_deref(), part.rule, part.remark.as_deref()];
            writeln!(f, " ({})", parts.into_iter().flatten().collect::<Vec<_>>().join("; "))?;
        }
        let folders: Vec<_> = self.tensorrt.looked_in.iter().map(|p| p.folder.display().to_string()).collect();
        writeln!(f, "  looked in {}", folders.join(", "))?;
        match &self.tensorrt.runtime.0 {
            Ok(said) => writeln!(f, "  loads: {said}")?,
            Err(error) => writeln!(f, "  {error}")?,
        }
        writeln!(f, "\ncompiled engines")?;
        match &self.cache.folder.0 {
            Ok(folder) => writeln!(f, "  {} in {}", self.cache.entries.len(), folder.display())?,
            Err(error) => writeln!(f, "  {error}")?,
        }
        for (path, entry) in &self.cache.entries {
            match &entry.0 {
                Ok(e) => writeln!(
                    f,
                    "  {}: {} ({}), TensorRT {}, Torch-TensorRT {}, {}, {:?}, batch {:?}, model {}, {} by {}",
                    path.display(),
                    e.key.gpu,
                    e.key.compute_capability,
                    e.key.tensorrt,
                    e.key.torch_tensorrt,
                    e.key.precision,
                    e.key.shape,
                    e.key.batch,
                    e.key.model_sha256.get(..12).unwrap_or_default(),
                    e.created,
                    e.origin
                )?,
                Err(error) => writeln!(f, "  {error}")?,
            }
        }
        if let Some(model) = &self.model {
            f.write_str(&describe_model(model)?)?;
        }
        if let Some(engine) = &self.engine {
            writeln!(f, "\nengine")?;
            f.write_str(&describe_archive(&engine.archive)?)?;
            for Verdict { device, refused, not_compared } in &engine.verdicts {
                write!(f, "  {}: ", device.as_deref().unwrap_or("here"))?;
                match refused {
                    Some(why) => write!(f, "refused: {why}")?,
                    None => write!(f, "nothing that would be refused")?,
                }
                match not_compared {
                    Some(what) => writeln!(f, "; not compared: {what}")?,
                    None => writeln!(f)?,
                }
            }
        }
        Ok(())
    }
}

fn describe_model(model: &Model) -> Result<String, fmt::Error> {
    let mut f = format!("\nmodel {}\n", model.path.display());
    match &model.manifest.0 {
        Err(error) => writeln!(f, "  {error}")?,
        Ok(m) => {
            let depth = if m.answers(Task::Depth) { "depth" } else { "no depth" };
            let (name, w, h, classes) = (&m.name, m.input.width, m.input.height, m.classes.len());
            writeln!(f, "  {name}: input {w}x{h}, {classes} classes, {depth}")?;
            let p = &m.provenance;
            writeln!(f, "  made {} by version {} for libtorch {}", p.created, p.package_version, p.libtorch)?;
            for (name, sha256) in &m.files {
                writeln!(f, "  {name}: sha256 {sha256}")?;
            }
        }
    }
    if let Some(archive) = &model.archive {
        f.push_str(&describe_archive(archive)?);
    }
    for Checked { way: Way { device, backend, precision }, is_auto, check } in &model.checks {
        write!(f, "  {device}, {backend}, {precision}")?;
        match &check.0 {
            Ok(c) => {
                let auto = if *is_auto { " (what the node takes by default there)" } else { "" };
                let golden = c.golden.map_or_else(|| "the model has none".into(), |d| d.to_string());
                let (width, height) = c.network_size;
                writeln!(f, " runs{auto}")?;
                writeln!(f, "    golden input: {golden}")?;
                write!(f, "    a street of {width}x{height}: equal, finite answers")?;
                if let Some(classes) = c.classes_seen {
                    write!(f, ", {classes} classes")?;
                }
                if let (Some(min), Some(median), Some(max)) = (c.depth_min_m, c.depth_median_m, c.depth_max_m) {
                    write!(f, ", depth {min:.1} to {max:.1} m, median {median:.1} m")?;
                }
                writeln!(f, "; about {:.1} ms", c.answer_ms)?;
            }
            Err(error) => writeln!(f, " does not run: {error}")?,
        }
    }
    Ok(f)
}

pub(super) fn describe_archive(archive: &Answer<Archive>) -> Result<String, fmt::Error> {
    let mut f = String::new();
    let archive = match &archive.0 {
        Ok(archive) => archive,
        Err(error) => {
            writeln!(f, "  {error}")?;
            return Ok(f);
        }
    };
    if archive.is_plain() {
        writeln!(f, "  {}: plain TorchScript, no TensorRT engine", archive.path.display())?;
    }
    for engine in &archive.engines {
        let (device, platform) = (&engine.device, or_dash(engine.platform.as_ref()));
        writeln!(
            f,
            "  {}: engine {} in {}: ABI {}, TensorRT {}, {} ({}{}), {platform}, plan of {} bytes, {:?} -> {:?}",
            archive.path.display(),
            engine.name,
            engine.record,
            engine.abi,
            engine.tensorrt,
            device.name,
            device.compute_capability,
            if engine.hardware_compatible { ", hardware compatible" } else { "" },
            engine.plan_bytes,
            engine.inputs,
            engine.outputs
        )?;
        let kind = match device.kind {
            DeviceKind::Gpu => "GPU",
            DeviceKind::Dla => "DLA core",
        };
        let known = |flag: Option<bool>| match flag {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        writeln!(
            f,
            "    built on {kind} {}; metadata of {} bytes; output allocator: {}; dynamic allocation: {}",
            device.id,
            engine.metadata_bytes,
            known(engine.needs_output_allocator),
            known(engine.allocates_dynamically)
        )?;
    }
    Ok(f)
}
