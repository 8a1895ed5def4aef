//! What is wrong with a manifest that can be read.

use super::manifest::{ClassKind, DepthCode, DepthDecoding, Manifest, OutputTensor};
use super::MANIFEST;
use crate::data::classes::{Class, UNLABELLED};
use crate::model::Task;
use std::collections::BTreeSet;
use std::path::{Component, Path};

/// Greatest width or height of a network input, pixels.
const MOST_PIXELS: usize = 8192;

/// The values' ranges and what they say of each other.
pub(super) fn check(m: &Manifest) -> Result<(), String> {
    // First of all, since messages repeat names: they go into ROS messages, which hold no NUL, and into lines of a log.
    if m.name.contains(char::is_control) {
        return Err(format!("name: expected text without control characters, found {:?}", m.name));
    }
    if let Some(class) = m.classes.iter().find(|class| class.name.contains(char::is_control)) {
        return Err(format!(
            "classes: expected names without control characters, found {:?} of class {}",
            class.name, class.id
        ));
    }
    check_input(m)?;
    check_tensors(m)?;
    check_channels(m)?;
    check_classes(&m.classes)?;
    if let Some(depth) = &m.output.depth {
        check_decoding(depth)?;
    }
    check_files(m)
}

/// What is wrong with the sizes and with how the input is made, in words.
fn check_input(m: &Manifest) -> Result<(), String> {
    let (w, h) = (m.input.width, m.input.height);
    if !(1..=MOST_PIXELS).contains(&w) || !(1..=MOST_PIXELS).contains(&h) {
        return Err(format!("input: expected a width and height of 1 to {MOST_PIXELS}, found {w} and {h}"));
    }
    if m.input.mean.iter().any(|v| !v.is_finite()) {
        return Err(format!("input.mean: expected three finite numbers, found {:?}", m.input.mean));
    }
    if m.input.std.iter().any(|v| !(v.is_finite() && *v > 0.0)) {
        return Err(format!("input.std: expected three numbers above 0, found {:?}", m.input.std));
    }
    let (answer_w, answer_h) = m.answer_size();
    if !(1..=w).contains(&answer_w) || !(1..=h).contains(&answer_h) {
        return Err(format!(
            "output: expected a width of 1 to the input's {w} and a height of 1 to its {h}, found {answer_w} and {answer_h}"
        ));
    }
    Ok(())
}

/// What is wrong with the tensors of an answer of several, in words.
fn check_tensors(m: &Manifest) -> Result<(), String> {
    let Some(tensors) = &m.output.tensors else { return Ok(()) };
    let parts = [
        (
            OutputTensor::Classes,
            "classes",
            m.answers(Task::Segmentation),
            ["there are no classes", "there are classes"],
        ),
        (OutputTensor::Depth, "depth", m.answers(Task::Depth), ["output.depth is not given", "output.depth is given"]),
    ];
    for (part, name, is_answered, why) in parts {
        let found = tensors.iter().filter(|t| **t == part).count();
        if found != usize::from(is_answered) {
            let expected = if is_answered { "once" } else { "not at all" };
            let why = why[usize::from(is_answered)];
            return Err(format!("output.tensors: expected '{name}' {expected}, as {why}, found it {found} times"));
        }
    }
    if m.output.normals_channel.is_some() {
        return Err(
            "output.normals_channel: expected none beside output.tensors, whose tensors are read by name".into()
        );
    }
    Ok(())
}

/// What is wrong with the number of classes and the channels, in words.
fn check_channels(m: &Manifest) -> Result<(), String> {
    let scores = m.output.score_channels;
    let classes = m.classes.len();
    if classes > 256 {
        return Err(format!("classes: expected 256 at most, found {classes}"));
    }
    if classes == 0 && m.output.depth.is_none() {
        return Err("expected classes, output.depth or both, found neither: there is nothing to publish".into());
    }
    let channels = if m.output.classes == ClassKind::Labels { classes.min(1) } else { classes };
    if scores != channels {
        return Err(format!(
            "output.score_channels: expected {channels} (one for each of the classes, or 1 where output.classes is \
             labels; 0 without classes), found {scores}"
        ));
    }
    if m.network.classes != classes {
        return Err(format!("network.classes: expected the number of classes, {classes}, found {}", m.network.classes));
    }
    let after_classes = m.output.depth.is_some().then_some(scores);
    if m.output.depth_channel != after_classes {
        let said = |channel: Option<usize>| channel.map_or("none".into(), |c| c.to_string());
        return Err(format!(
            "output.depth_channel: expected {}, the channel after the class channels where output.depth is given, found {}",
            said(after_classes),
            said(m.output.depth_channel)
        ));
    }
    let after_depth = scores + usize::from(m.output.depth.is_some());
    if m.output.normals_channel.is_some_and(|c| c != after_depth) {
        return Err(format!("output.normals_channel: expected the channel after classes and depth, {after_depth}"));
    }
    Ok(())
}

/// What is wrong with the classes' ids and names, in words.
fn check_classes(classes: &[Class]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for class in classes {
        if !seen.insert(class.id) {
            return Err(format!("classes: expected each id once, found {} twice", class.id));
        }
        if class.id == UNLABELLED && class.name != "unlabelled" {
            return Err(format!("classes: id {UNLABELLED} means unlabelled, found '{}' there", class.name));
        }
        if class.name.is_empty() {
            return Err(format!("classes: class {} has no name", class.id));
        }
    }
    Ok(())
}

/// What is wrong with the list of files, in words.
fn check_files(m: &Manifest) -> Result<(), String> {
    if !m.files.contains_key(&m.torchscript) {
        return Err(format!("files: expected an entry for the TorchScript file '{}', found none", m.torchscript));
    }
    for (name, hash) in &m.files {
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || name == MANIFEST {
            return Err(format!("files: expected names of files beside the manifest, found '{name}'"));
        }
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("files: expected a sha256 of 64 hexadecimal digits for '{name}', found '{hash}'"));
        }
    }
    Ok(())
}

/// What is wrong with how depth is to be read, in words.
fn check_decoding(d: &DepthDecoding) -> Result<(), String> {
    if !(d.scale.is_finite() && d.scale != 0.0) {
        return Err(format!("output.depth.scale: expected a number other than 0, found {}", d.scale));
    }
    if d.code != DepthCode::Log && d.scale < 0.0 {
        return Err(format!("output.depth.scale: expected a number above 0, found {}", d.scale));
    }
    if !(d.min_m >= 0.0 && d.max_m > d.min_m && d.max_m.is_finite()) {
        return Err(format!("output.depth: expected 0 <= min_m < max_m, found {} and {}", d.min_m, d.max_m));
    }
    if !(d.focal_length_px.is_finite() && d.focal_length_px > 0.0) {
        return Err(format!("output.depth.focal_length_px: expected pixels above 0, found {}", d.focal_length_px));
    }
    Ok(())
}
