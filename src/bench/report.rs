//! The results: one structure that is written as JSON and printed as a table.

use super::ceilings::{Ceilings, Reached};
use super::energy::Energy;
use super::frames::{Frames, Together};
use super::measure::{Spread, Timing};
use super::memory::{Machine, Resident};
use super::network::{Alone, AtSize};
use super::versions::CudaVersions;
use crate::frame::network::KernelRun;
use serde::Serialize;
use std::fmt::Write as _;

/// What was measured, on what, with what.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Circumstances.
    pub about: About,
    /// Which model.
    pub model: Model,
    /// Whole frames.
    pub frames: Option<Frames>,
    /// The network alone.
    pub network: Option<Alone>,
    /// Frames of several cameras.
    pub together: Option<Vec<Together>>,
    /// Energy of whole frames.
    pub energy: Option<Energy>,
    /// Why it could not be read: a reason for each source that was tried.
    pub energy_unreadable: Option<Vec<String>>,
    /// The network at other sizes.
    pub scaling: Option<Vec<AtSize>>,
    /// The device's ceilings.
    pub ceilings: Option<Ceilings>,
    /// The network against them.
    pub reached: Option<Reached>,
}

/// Circumstances.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct About {
    /// UTC, ISO 8601.
    pub date: String,
    /// As it was given.
    pub command: String,
    /// Of this package.
    pub package_version: &'static str,
    /// Version of the one that ran; `None` where it does not say.
    pub libtorch: Option<String>,
    /// Where the network ran on a GPU.
    pub cuda: Option<CudaVersions>,
    /// Where it ran.
    pub machine: Machine,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// What ran the network.
    pub backend: &'static str,
    /// In which precision.
    pub precision: &'static str,
    /// Of libtorch, within an operation.
    pub threads: usize,
    /// Compiled without optimisation: the figures mean nothing.
    pub debug_build: bool,
}

/// The model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    /// Short name.
    pub name: String,
    /// Its manifest, as it was found.
    pub path: String,
    /// Of the network's input, pixels.
    pub width: usize,
    /// Of the network's input, pixels.
    pub height: usize,
    /// Of the TorchScript file.
    pub torchscript_sha256: String,
    /// Of the weights that it was exported from.
    pub weights_sha256: String,
}

const MIB: f64 = (1_u64 << 20) as f64;

fn milliseconds(s: &Spread) -> String {
    let deviation = s.deviation.map_or_else(String::new, |d| format!(" +/- {d:.2}"));
    format!(
        "{:.2}{deviation}   p50 {:.2}  p95 {:.2}  p99 {:.2}  max {:.2}  ({})",
        s.mean, s.p50, s.p95, s.p99, s.max, s.count
    )
}

fn timing(out: &mut String, what: &str, t: &Timing) {
    line(out, what, &milliseconds(&t.wall_ms));
    line(out, "  processor time", &milliseconds(&t.cpu_ms));
}

fn line(out: &mut String, what: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{what:32}{value}");
}

impl Report {
    /// As lines for a terminal; times in milliseconds.
    pub fn table(&self) -> String {
        let mut out = String::new();
        self.head(&mut out);
        if let Some(n) = &self.network {
            let _ = writeln!(out, "\nnetwork alone, {}x{}, one image, ms", n.width, n.height);
            timing(&mut out, "host memory to host memory", &n.host);
            if let Some(device) = &n.device {
                timing(&mut out, "on the device (idle to idle)", &device.host);
                line(&mut out, "  by the device's clock", &milliseconds(&device.device_ms));
            }
            if !n.kernels.is_empty() {
                kernels(&mut out, &n.kernels);
            }
        }
        if let Some(f) = &self.frames {
            frames(&mut out, f);
        }
        if let Some(rows) = &self.together {
            together(&mut out, rows);
        }
        self.energy(&mut out);
        if let Some(rows) = &self.scaling {
            scaling(&mut out, rows);
        }
        if let (Some(c), Some(r)) = (&self.ceilings, &self.reached) {
            ceilings(&mut out, c, r);
        }
        out
    }

    fn head(&self, out: &mut String) {
        let (a, m) = (&self.about, &self.model);
        line(out, "date", &a.date);
        line(out, "model", &format!("{} ({}), network {}x{}", m.name, m.path, m.width, m.height));
        let machine = match &a.machine.gpu {
            Some(gpu) => format!("{gpu}; {} ({} cores)", a.machine.cpu, a.machine.cores),
            None => format!("{} ({} cores)", a.machine.cpu, a.machine.cores),
        };
        line(out, "machine", &machine);
        line(
            out,
            "runs on",
            &format!(
                "{}, {}, {}, {} threads; semantic_depth {}, libtorch {}",
                a.device,
                a.backend,
                a.precision,
                a.threads,
                a.package_version,
                a.libtorch.as_deref().unwrap_or("of unknown version")
            ),
        );
        if let Some(cuda) = &a.cuda {
            line(out, "CUDA", &cuda.to_string());
        }
        if let Some(load) = a.machine.load_before.filter(|load| *load > 0.5) {
            let _ = writeln!(out, "WARNING: others use this machine too (load {load} before the start)");
        }
        if a.debug_build {
            let _ = writeln!(out, "WARNING: compiled without optimisation; the figures mean nothing");
        }
    }

    fn energy(&self, out: &mut String) {
        if let Some(e) = &self.energy {
            let _ = writeln!(out, "\nenergy, from {}", e.source);
            line(out, "a frame", &format!("{:.3} J ({:.1} W)", e.joules_a_frame, e.watts));
            let above = e.joules_a_frame_above_rest;
            line(out, "a frame, above rest", &format!("{above:.3} J (at rest {:.1} W)", e.rest_watts));
            for part in &e.parts {
                let apart = if part.counted { "" } else { " (not in the sum)" };
                line(out, &format!("  {}", part.name), &format!("{:.1} W{apart}", part.joules / e.seconds));
            }
        }
        if let Some(reasons) = &self.energy_unreadable {
            let _ = writeln!(out, "\nenergy cannot be read");
            for reason in reasons {
                let _ = writeln!(out, "  {reason}");
            }
        }
    }
}

fn frames(out: &mut String, f: &Frames) {
    let _ = writeln!(out, "\na frame, {}x{} {} in, labels and depth out, ms", f.width, f.height, f.encoding);
    timing(out, "whole", &f.whole);
    for stage in &f.stages {
        line(out, &format!("  {}", stage.name), &milliseconds(&stage.wall_ms));
    }
    line(out, "frames a second", &format!("{:.2}", f.frames_a_second));
    let m = &f.memory;
    let mib = |r: &Option<Resident>| r.map_or("unknown".into(), |r| format!("{:.0}", r.now_bytes as f64 / MIB));
    let growth = m.growth_bytes.map_or("unknown".into(), |g| format!("{:.2}", g as f64 / MIB));
    let peak = m.end.map_or("unknown".into(), |r| format!("{:.0}", r.peak_bytes as f64 / MIB));
    let text = format!(
        "{} before loading, {} loaded, {} at the end, {peak} at most; {growth} more since frame {}",
        mib(&m.before_load),
        mib(&m.loaded),
        mib(&m.end),
        m.settled_frame
    );
    line(out, "resident memory, MiB", &text);
    if let Some(gpu) = &m.gpu {
        let own = gpu.process_bytes.map_or("not known by process".into(), |b| format!("{:.0}", b as f64 / MIB));
        let above = gpu.above_before_bytes as f64 / MIB;
        line(out, "GPU memory, MiB", &format!("{own}; the GPU has {above:.0} more in use than before"));
    }
    if let Some(why) = &m.gpu_unreadable {
        line(out, "GPU memory", why);
    }
}

fn together(out: &mut String, rows: &[Together]) {
    let _ = writeln!(out, "\na frame of each of several cameras: median ms of all of them, frames a second in all");
    let _ = writeln!(out, "{:>9}{:>14}{:>10}{:>14}{:>10}", "cameras", "in turn, ms", "Hz", "batch, ms", "Hz");
    for row in rows {
        let _ = writeln!(
            out,
            "{:>9}{:>14.2}{:>10.2}{:>14.2}{:>10.2}",
            row.cameras,
            row.in_turn.wall_ms.p50,
            row.in_turn_frames_a_second,
            row.batch.wall_ms.p50,
            row.batch_frames_a_second
        );
    }
}

fn kernels(out: &mut String, kernels: &[KernelRun]) {
    let mut names: Vec<&str> = kernels.iter().map(|k| k.name).collect();
    names.sort_unstable();
    names.dedup();
    let _ = writeln!(out, "\nkernels by name, each run again and again");
    let _ = writeln!(out, "{:>12}{:>8}{:>10}{:>12}", "", "how many", "in all, us", "longest, us");
    for name in names {
        let us = || kernels.iter().filter(|k| k.name == name).map(|k| f64::from(k.ms) * 1e3);
        let _ =
            writeln!(out, "{name:>12}{:>8}{:>10.1}{:>12.1}", us().count(), us().sum::<f64>(), us().fold(0.0, f64::max));
    }
}

fn scaling(out: &mut String, rows: &[AtSize]) {
    let _ = writeln!(out, "\nthe network at other sizes");
    let _ = writeln!(out, "{:>12}{:>10}{:>14}{:>14}{:>12}", "size", "GMAC", "median, ms", "CPU, ms", "ns a pixel");
    for row in rows {
        let _ = writeln!(
            out,
            "{:>12}{:>10.2}{:>14.2}{:>14.2}{:>12.1}",
            format!("{}x{}", row.width, row.height),
            row.macs as f64 / 1e9,
            row.device.map_or(row.host.wall_ms.p50, |d| d.median_ms()),
            row.host.cpu_ms.p50,
            row.ns_a_pixel
        );
    }
}

fn ceilings(out: &mut String, c: &Ceilings, r: &Reached) {
    let _ = writeln!(out, "\nceilings of the device, and the network against them (median {:.2} ms)", r.ms);
    let product = format!("{:.1} GFLOP/s ({}, {} squared)", c.product_gflop_s, c.precision, c.product_size);
    line(out, "matrix product", &product);
    line(
        out,
        "  network",
        &format!(
            "{:.1} GFLOP/s of {:.2} GMAC: {:.1} %; not below {:.2} ms",
            r.gflop_s,
            r.macs as f64 / 1e9,
            100.0 * r.of_product,
            r.product_floor_ms
        ),
    );
    line(out, "copy", &format!("{:.1} GB/s ({:.0} MiB)", c.copy_gb_s, c.copy_bytes as f64 / MIB));
    line(
        out,
        "  network, each operation apart",
        &format!("{:.1} GB/s of {:.0} MB: {:.1} %", r.gb_s, r.bytes as f64 / 1e6, 100.0 * r.of_copy),
    );
    line(
        out,
        "  network, all in one",
        &format!("{:.1} MB have to move: not below {:.3} ms", r.compulsory_bytes as f64 / 1e6, r.compulsory_floor_ms),
    );
}
