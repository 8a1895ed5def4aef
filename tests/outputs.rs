//! Models of every kind that a manifest can describe: TorchScript modules of a few lines, each held against the
//! definition of what the node makes of an answer, a pixel at a time in double precision.

use semantic_depth::export::{self, manifest::InputSpec};
use semantic_depth::frame::clock::StageTimes;
use semantic_depth::frame::geometry::{Geometry, OutputSize, Placement, Rect, ResizeMode};
use semantic_depth::frame::input::InputBuilder;
use semantic_depth::frame::network::{resolve, DeviceChoice, NetworkError, Precision};
use semantic_depth::frame::pipeline::{Job, LoadOptions, Outputs, Pipeline, PipelineError, Wanted};
use semantic_depth::frame::view::ImageView;
use semantic_depth::tensorrt::{self, BatchRange, BuildOptions, EnginePrecision, TensorRtError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tch::{CModule, IValue, Kind, Tensor};
use zip::write::{FileOptions, ZipWriter};

const NETWORK: (usize, usize) = (64, 32);
/// Published ids are not channel numbers.
const IDS: [u8; 4] = [0, 13, 8, 255];
/// Label -> value in the mask.
static MASK_VALUES: [u8; 256] = {
    let mut values = [0; 256];
    let mut label = 0;
    while label < 256 {
        values[label] = label as u8 ^ 3;
        label += 1;
    }
    values
};

/// A kind of model.
#[derive(Debug, Clone, Copy, Default)]
struct Model {
    /// The input is bytes.
    bytes: bool,
    /// The answer is labels and not scores.
    labels: bool,
    /// The manifest's depth code and scale.
    depth: Option<(&'static str, f64)>,
    /// The answer is a tuple of these.
    tensors: Option<&'static [&'static str]>,
    /// Input pixels a pixel of the answer.
    stride: usize,
    /// The answer is in the host's memory, wherever the module runs.
    on_host: bool,
    /// The answer lacks `classes` or `depth`.
    lacks: Option<&'static str>,
    /// A further line of its code, before what it answers.
    line: Option<&'static str>,
}

impl Model {
    fn answer(&self) -> (usize, usize) {
        (NETWORK.0 / self.stride, NETWORK.1 / self.stride)
    }

    /// TorchScript source, as it stands in an archive.
    fn code(&self) -> String {
        let mut body = vec![
            if self.bytes {
                // Only whole numbers have bits.
                "v = torch.div(torch.to(torch.bitwise_and(x, 255), 6), 255.)".into()
            } else {
                "v = x".to_string()
            },
            format!("p = torch.avg_pool2d(v, [{0}, {0}])", self.stride),
            "r = torch.slice(p, 1, 0, 1)".into(),
            "g = torch.slice(p, 1, 1, 2)".into(),
            "b = torch.slice(p, 1, 2, 3)".into(),
            "d = torch.mul(torch.sub(r, g), 4)".into(),
            "s = torch.cat([d, torch.neg(d), torch.add(torch.mul(r, 0), 0.5), torch.mul(torch.sub(b, 0.5), 3)], 1)"
                .into(),
        ];
        body.push(
            match self.depth {
                Some(("metres", _)) => "z = torch.add(torch.mul(b, 40), 2)",
                // Some are infinitely far.
                Some(("inverse", _)) => "z = torch.mul(torch.sub(b, 0.2), 30)",
                _ => "z = b",
            }
            .into(),
        );
        body.extend(self.line.map(String::from));
        // A tuple's planes need no dimension for their one channel, and labels may be whole numbers there.
        let (classes, depth) = match (self.labels, self.tensors) {
            (true, None) => ("torch.to(torch.argmax(s, 1, True), 6)", "z"),
            (true, Some(_)) => ("torch.argmax(s, 1)", "torch.squeeze(z, 1)"),
            (false, _) => ("s", "z"),
        };
        let (kind, value) = match self.tensors {
            None => {
                let all = match self.lacks {
                    Some("classes") => depth.into(),
                    Some(_) => classes.into(),
                    None => format!("torch.cat([{classes}, {depth}], 1)"),
                };
                ("Tensor".into(), if self.on_host { format!("torch.cpu({all})") } else { all })
            }
            Some(names) => {
                let values: Vec<_> = names
                    .iter()
                    .map(|name| match *name {
                        "classes" => classes,
                        "depth" => depth,
                        _ => "torch.sum(x)",
                    })
                    .collect();
                (format!("Tuple[{}]", vec!["Tensor"; names.len()].join(", ")), format!("({})", values.join(", ")))
            }
        };
        let body: String = body.iter().map(|line| format!("    {line}\n")).collect();
        format!(
            "class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n  def forward(self: __torch__.M,\n    x: Tensor) \
             -> {kind}:\n{body}    return {value}\n"
        )
    }

    fn manifest(&self, sha256: &str) -> String {
        let (width, height) = self.answer();
        let size = if self.stride == 1 { String::new() } else { format!("  width: {width}\n  height: {height}\n") };
        let tensors = self.tensors.map_or(String::new(), |t| format!("  tensors: [{}]\n", t.join(", ")));
        let (code, scale) = self.depth.map_or((String::new(), 5.0), |(code, scale)| (format!("code: {code}, "), scale));
        let has = |part: &str| self.lacks != Some(part);
        let channels = match (has("classes"), self.labels) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => IDS.len(),
        };
        let classes = if self.labels { "  classes: labels\n" } else { "" };
        let ids = if has("classes") { &IDS[..] } else { &[] };
        let depth = if has("depth") {
            format!(
                "  depth_channel: {channels}\n  depth: {{{code}scale: {scale}, min_m: 1, max_m: 80, focal_length_px: 60}}\n"
            )
        } else {
            String::new()
        };
        let table: String = ids
            .iter()
            .map(|id| {
                format!(
                    "- {{id: {id}, name: {}, color: [{id}, 2, 3]}}\n",
                    if *id == 255 { "unlabelled" } else { "thing" }
                )
            })
            .collect();
        format!(
            "schema_version: 1\nname: kinds\nnetwork: {{classes: {}}}\ntorchscript: network.ts\ninput:\n  width: {}\n  \
             height: {}\n  channel_order: rgb\n{}  mean: [0, 0, 0]\n  std: [1, 1, 1]\noutput:\n{size}{tensors}{classes}  \
             score_channels: {channels}\n{depth}classes:{}\n{table}files: {{network.ts: {sha256}}}\nprovenance: \
             {{package_version: '0', command: test, created: now, weights_sha256: none, libtorch: '2.11', training: none}}\n",
            ids.len(),
            NETWORK.0,
            NETWORK.1,
            if self.bytes { "  kind: u8\n" } else { "" },
            if ids.is_empty() { " []" } else { "" },
        )
    }

    /// Writes the model's folder; returns the manifest's path.
    fn write(&self, folder: &Path) -> PathBuf {
        let network = folder.join("network.ts");
        let mut archive = ZipWriter::new(std::fs::File::create(&network).expect("a file"));
        let code = self.code();
        let members: [(&str, &[u8]); 5] = [
            // Pickles: a M without attributes, and no constants.
            ("data.pkl", b"\x80\x02c__torch__\nM\n)\x81}b."),
            ("code/__torch__.py", code.as_bytes()),
            ("constants.pkl", b"\x80\x02)."),
            ("version", b"3\n"),
            ("byteorder", b"little"),
        ];
        for (name, data) in members {
            let stored = FileOptions::default().compression_method(zip::CompressionMethod::Stored);
            archive.start_file(format!("network/{name}"), stored).expect("a member");
            archive.write_all(data).expect("written");
        }
        archive.finish().expect("an archive");
        let manifest = folder.join("model.yaml");
        let text = self.manifest(&export::sha256(&network).expect("a hash"));
        std::fs::write(&manifest, text).expect("written");
        manifest
    }
}

/// Every kind, alone and together with others.
fn models() -> Vec<Model> {
    let plain = Model { stride: 4, ..Model::default() };
    let tuple = Some(&["classes", "depth"][..]);
    vec![
        Model { stride: 1, ..plain },
        plain,
        Model { bytes: true, ..plain },
        Model { labels: true, ..plain },
        Model { depth: Some(("log", 4.0)), ..plain },
        Model { depth: Some(("metres", 1.5)), ..plain },
        Model { depth: Some(("inverse", 90.0)), stride: 2, ..plain },
        Model { tensors: tuple, ..plain },
        Model { tensors: Some(&["other", "depth", "classes"]), ..plain },
        Model { on_host: true, ..plain },
        Model { tensors: tuple, labels: true, bytes: true, depth: Some(("inverse", 90.0)), stride: 2, ..plain },
    ]
}

/// Blobs of all colours.
fn picture((width, height): (usize, usize)) -> Vec<u8> {
    let wave = |x: usize, y: usize, c: usize| {
        let (x, y, c) = (x as f64 / 19.0, y as f64 / 13.0, c as f64);
        (127.5 + 127.0 * (x * (1.0 + 0.3 * c) + c).sin() * (y * (1.3 - 0.2 * c) + 2.0 * c).cos()) as u8
    };
    (0..height).flat_map(|y| (0..width).flat_map(move |x| [0, 1, 2].map(|c| wave(x, y, c)))).collect()
}

fn options(device: DeviceChoice, precision: Precision) -> LoadOptions {
    LoadOptions { device, precision, max_batch: 2, ..LoadOptions::default() }
}

/// The processor, and a CUDA device where there is one: there, what comes before and after the module is kernels.
fn devices() -> Vec<DeviceChoice> {
    let has_gpu = resolve(DeviceChoice::Cuda(0)).is_ok();
    [DeviceChoice::Cpu].into_iter().chain(has_gpu.then_some(DeviceChoice::Cuda(0))).collect()
}

/// The module's own answer to a picture: class channels and depth, `[channels, height, width]`.
fn answer(model: &Model, folder: &Path, image: &ImageView<'_>, geometry: &Geometry, spec: &InputSpec) -> [Tensor; 2] {
    let mut builder = InputBuilder::new(spec);
    let mut input = vec![0.0; builder.len()];
    builder.build(image, geometry, &mut input);
    let input = Tensor::from_slice(&input)
        .reshape([1, NETWORK.1 as i64, NETWORK.0 as i64, 3])
        .permute([0, 3, 1, 2])
        .to_kind(if model.bytes { Kind::Uint8 } else { Kind::Float });
    let module = CModule::load(folder.join("network.ts")).expect("a module");
    let (width, height) = model.answer();
    let plane = |t: &Tensor| t.to_kind(Kind::Double).reshape([-1, height as i64, width as i64]);
    match module.forward_is(&[IValue::Tensor(input)]).expect("it runs") {
        IValue::Tensor(all) => {
            let classes = all.size()[1] - 1;
            [plane(&all.narrow(1, 0, classes)), plane(&all.narrow(1, classes, 1))]
        }
        IValue::Tuple(values) => ["classes", "depth"].map(|name| {
            let at = model.tensors.expect("a tuple").iter().position(|n| *n == name).expect("its name");
            let IValue::Tensor(tensor) = &values[at] else { panic!("{name} is no tensor") };
            plane(tensor)
        }),
        other => panic!("{other:?}"),
    }
}

/// Where an output position is in the answer, along one axis: a number of pixels from the first one's centre.
fn place(i: usize, [shown, to, seen, net]: [std::ops::Range<usize>; 4], network: usize, answer: usize) -> Option<f64> {
    let source = shown.start as f64 + (i as f64 + 0.5 - to.start as f64) * shown.len() as f64 / to.len() as f64;
    if !(seen.start as f64..seen.end as f64).contains(&source) {
        return None;
    }
    let at = net.start as f64 + (source - seen.start as f64) * net.len() as f64 / seen.len() as f64;
    let scale = network as f64 / answer as f64;
    let mut usable = (0..answer).filter(|j| {
        let centre = (*j as f64 + 0.5) * scale;
        net.start as f64 + 1e-9 < centre && centre + 1e-9 < net.end as f64
    });
    let first = usable.next().expect("the picture covers a pixel of the answer");
    let last = usable.next_back().unwrap_or(first);
    Some((at / scale - 0.5).clamp(first as f64, last as f64))
}

fn placements() -> Vec<Placement> {
    let roi = Some(Rect { x: 13, y: 7, width: 90, height: 60 });
    let modes = [ResizeMode::Stretch, ResizeMode::Letterbox, ResizeMode::Crop, ResizeMode::Roi];
    let sizes = [OutputSize::Source, OutputSize::Network, OutputSize::Fixed { width: 201, height: 33 }];
    modes.into_iter().flat_map(|mode| sizes.map(|output| Placement { mode, roi, output })).collect()
}

fn job<'a>(image: &ImageView<'a>, geometry: &'a Geometry, wanted: Wanted, outputs: &'a mut Outputs) -> Job<'a> {
    Job {
        image: *image,
        geometry,
        wanted,
        confidence_stride: 1,
        depth_factor: 2.0,
        overlay_opacity: 0.5,
        mask_values: &MASK_VALUES,
        outputs,
        times: StageTimes::default(),
        is_broken: false,
    }
}

fn run(pipeline: &mut Pipeline, image: &ImageView<'_>, geometry: &Geometry, wanted: Wanted) -> Outputs {
    let mut outputs = Outputs::default();
    pipeline.run(&mut [job(image, geometry, wanted, &mut outputs)]).expect("the frame is answered");
    outputs
}

#[test]
fn every_kind_of_model_is_answered_by_the_definition() {
    let source = (130, 81);
    let data = picture(source);
    let image = ImageView::rgb8(source.0 as u32, source.1 as u32, &data).expect("a valid layout");
    for (device, model) in devices().into_iter().flat_map(|device| models().into_iter().map(move |m| (device, m))) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = model.write(folder.path());
        let mut pipeline = Pipeline::load(&path, &options(device, Precision::Fp32)).expect("it loads");
        let spec = pipeline.manifest().input.clone();
        let mut seen_ids = std::collections::BTreeSet::new();
        let (mut compared, mut unclear, mut unseen) = (0, 0, 0);
        for placement in placements() {
            let geometry = Geometry::new(&placement, source, NETWORK).expect("it fits");
            let found = run(&mut pipeline, &image, &geometry, Wanted::ALL);
            let [classes, depth] = answer(&model, folder.path(), &image, &geometry, &spec);
            let (aw, ah) = model.answer();
            let channels = classes.size()[0] as usize;
            let flat = |t: &Tensor| Vec::<f64>::try_from(t.contiguous().reshape([-1])).expect("a flat tensor");
            let (classes, depth) = (flat(&classes), flat(&depth));
            let (shown, to) = match placement.output {
                OutputSize::Network => (geometry.source_rect(), geometry.network_rect()),
                _ => (Rect::whole(source), Rect::whole(geometry.output())),
            };
            let rects = [shown, to, geometry.source_rect(), geometry.network_rect()];
            for y in 0..found.height {
                for x in 0..found.width {
                    let i = y * found.width + x;
                    let what = format!("{device:?}, {model:?}, {placement:?}: {x},{y}");
                    let at = to.columns().contains(&x) && to.rows().contains(&y);
                    let px = place(x, rects.map(|r| r.columns()), NETWORK.0, aw).filter(|_| at);
                    let py = place(y, rects.map(|r| r.rows()), NETWORK.1, ah).filter(|_| at);
                    let (Some(px), Some(py)) = (px, py) else {
                        assert_eq!(found.labels[i], 255, "{what}");
                        assert!(found.depth_m[i].is_nan() && found.confidence[i].is_nan(), "{what}");
                        unseen += 1;
                        continue;
                    };
                    let bilinear = |plane: &[f64]| {
                        let (x0, y0) = (px.floor() as usize, py.floor() as usize);
                        let (x1, y1) = ((x0 + 1).min(aw - 1), (y0 + 1).min(ah - 1));
                        let (wx, wy) = (px.fract(), py.fract());
                        let value = |y: usize, x: usize| plane[y * aw + x];
                        (1.0 - wy) * ((1.0 - wx) * value(y0, x0) + wx * value(y0, x1))
                            + wy * ((1.0 - wx) * value(y1, x0) + wx * value(y1, x1))
                    };
                    let value = bilinear(&depth);
                    let metres = match model.depth {
                        Some(("metres", scale)) => scale * value,
                        Some(("inverse", scale)) if value > 0.0 => scale / value,
                        Some(("inverse", _)) => f64::INFINITY,
                        Some((_, scale)) => (scale * value).exp(),
                        None => (5.0 * value).exp(),
                    };
                    let metres = 2.0 * metres.clamp(1.0, 80.0);
                    let error = (f64::from(found.depth_m[i]) - metres).abs();
                    assert!(error < 5e-5 * metres, "{what}: {} m for {metres} m", found.depth_m[i]);
                    let label = if model.labels {
                        assert!(found.confidence[i].is_nan(), "{what}: labels have no confidence");
                        let (nx, ny) = ((px + 0.5).floor(), (py + 0.5).floor());
                        // Half way between two pixels both are nearest.
                        let is_clear = |p: f64| (p.fract() - 0.5).abs() > 1e-6;
                        (is_clear(px) && is_clear(py)).then(|| classes[ny as usize * aw + nx as usize] as usize)
                    } else {
                        let scores: Vec<f64> =
                            (0..channels).map(|c| bilinear(&classes[c * aw * ah..][..aw * ah])).collect();
                        let mut order: Vec<usize> = (0..channels).collect();
                        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
                        let best = scores[order[0]];
                        let probability = 1.0 / scores.iter().map(|s| (s - best).exp()).sum::<f64>();
                        let confidence = f64::from(found.confidence[i]);
                        assert!((confidence - probability).abs() < 1e-5, "{what}: {confidence} for {probability}");
                        (best - scores[order[1]] > 1e-5).then_some(order[0])
                    };
                    let Some(label) = label else {
                        unclear += 1;
                        continue;
                    };
                    assert_eq!(found.labels[i], IDS[label], "{what}");
                    assert_eq!(found.mask[i], IDS[label] ^ 3, "{what}");
                    seen_ids.insert(IDS[label]);
                    compared += 1;
                }
            }
        }
        assert_eq!(seen_ids.len(), IDS.len(), "{model:?}: only the labels {seen_ids:?}");
        assert!(compared > 20 * unclear && unseen > 1000, "{model:?}: {compared}, {unclear}, {unseen}");
    }
}

#[test]
fn a_model_of_one_task_answers_it_as_one_of_both_does_and_nothing_else() {
    let source = (130, 81);
    let data = picture(source);
    let image = ImageView::rgb8(source.0 as u32, source.1 as u32, &data).expect("a valid layout");
    let geometry = Geometry::new(&Placement::default(), source, NETWORK).expect("it fits");
    let is_nan = |values: &[f32]| values.len() == source.0 * source.1 && values.iter().all(|v| v.is_nan());
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let plain = Model { stride: 4, ..Model::default() };
    let tuple = Model { tensors: Some(&["classes", "depth"]), ..plain };
    let kinds = [plain, Model { labels: true, ..plain }, tuple, Model { labels: true, ..tuple }];
    for (device, kind) in devices().into_iter().flat_map(|d| kinds.map(|m| (d, m))) {
        let answer = |lacks| {
            let folder = tempfile::tempdir().expect("a folder");
            let tensors: Option<&[&str]> = match lacks {
                Some("depth") => kind.tensors.map(|_| &["classes", "other"][..]),
                Some(_) => kind.tensors.map(|_| &["other", "depth"][..]),
                None => kind.tensors,
            };
            let path = Model { lacks, tensors, ..kind }.write(folder.path());
            let mut pipeline = Pipeline::load(&path, &options(device, Precision::Fp32)).expect("it loads");
            run(&mut pipeline, &image, &geometry, Wanted::ALL)
        };
        let (both, classes, depth) = (answer(None), answer(Some("depth")), answer(Some("classes")));
        let pictures = |o: &Outputs| [&o.labels, &o.overlay, &o.colors, &o.mask].map(Clone::clone);
        assert_eq!(pictures(&classes), pictures(&both), "{device:?} {kind:?}");
        assert_eq!(bits(&classes.confidence), bits(&both.confidence), "{device:?} {kind:?}");
        assert!(is_nan(&classes.depth_m) && !is_nan(&both.depth_m), "{device:?} {kind:?}");
        assert_eq!(bits(&depth.depth_m), bits(&both.depth_m), "{device:?} {kind:?}");
        assert!(depth.labels.iter().all(|&label| label == 255) && is_nan(&depth.confidence), "{device:?} {kind:?}");
        assert!(depth.colors.iter().all(|&c| c == 0), "{device:?} {kind:?}");
    }
}

/// All values, numbers as their bits: bytes, then numbers.
fn values(outputs: &Outputs) -> ([&[u8]; 4], [Vec<u32>; 3]) {
    let Outputs { width: _, height: _, labels, depth_m, confidence, overlay, colors, mask, normals } = outputs;
    let bits = |floats: &[f32]| floats.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    ([labels, overlay, colors, mask].map(Vec::as_slice), [bits(depth_m), bits(confidence), bits(normals)])
}

#[test]
fn nothing_of_an_older_frame_is_left_in_the_outputs() {
    let some = [
        Wanted::ALL,
        Wanted { mask: true, confidence: true, ..Wanted::default() },
        Wanted { overlay: true, depth: true, ..Wanted::default() },
    ];
    for (device, labels) in devices().into_iter().flat_map(|device| [(device, false), (device, true)]) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = Model { labels, stride: 4, ..Model::default() }.write(folder.path());
        let mut pipeline = Pipeline::load(&path, &options(device, Precision::Fp32)).expect("it loads");
        let mut kept = Outputs::default();
        // Larger and smaller ones in turn.
        for source in [(130, 81), (104, 70), (141, 90)] {
            let data = picture(source);
            let image = ImageView::rgb8(source.0 as u32, source.1 as u32, &data).expect("a valid layout");
            for (placement, wanted) in placements().iter().flat_map(|p| some.map(|wanted| (p, wanted))) {
                let geometry = Geometry::new(placement, source, NETWORK).expect("it fits");
                // Values that no frame has.
                for bytes in [&mut kept.labels, &mut kept.overlay, &mut kept.colors, &mut kept.mask] {
                    bytes.fill(77);
                }
                for floats in [&mut kept.depth_m, &mut kept.confidence, &mut kept.normals] {
                    floats.fill(-77.0);
                }
                pipeline.run(&mut [job(&image, &geometry, wanted, &mut kept)]).expect("the frame is answered");
                let fresh = run(&mut pipeline, &image, &geometry, wanted);
                assert_eq!((kept.width, kept.height), (fresh.width, fresh.height));
                let is_fresh = values(&kept) == values(&fresh);
                assert!(is_fresh, "{device:?}, labels: {labels}, {source:?}, {placement:?}, {wanted:?}");
            }
        }
    }
}

#[test]
fn an_error_leaves_all_outputs_empty() {
    let folder = tempfile::tempdir().expect("a folder");
    Model { stride: 4, ..Model::default() }.write(folder.path());
    let mut pipeline = load(folder.path(), Precision::Fp32).expect("it loads");
    let (source, other) = ((130, 81), (104, 70));
    let data = picture(source);
    let image = ImageView::rgb8(source.0 as u32, source.1 as u32, &data).expect("a valid layout");
    let [geometry, of_another] =
        [source, other].map(|size| Geometry::new(&Placement::default(), size, NETWORK).expect("it fits"));
    let good = run(&mut pipeline, &image, &geometry, Wanted::ALL);
    assert_eq!((good.labels.len(), good.depth_m.len(), good.mask.len()), (130 * 81, 130 * 81, 130 * 81));
    let is_empty = |outputs: &Outputs| {
        let (bytes, floats) = values(outputs);
        bytes.iter().all(|v| v.is_empty()) && floats.iter().all(|v| v.is_empty())
    };
    let mut outputs = [(); 3].map(|()| good.clone());
    let mut jobs = outputs.each_mut().map(|outputs| job(&image, &geometry, Wanted::ALL, outputs));
    let error = pipeline.run(&mut jobs).expect_err("three, of at most two");
    assert!(matches!(error, PipelineError::Batch { jobs: 3, max_batch: 2 }), "{error}");
    assert!(outputs.iter().all(is_empty));
    let [mut first, mut second] = [good.clone(), good];
    let mut jobs = [
        job(&image, &geometry, Wanted::ALL, &mut first),
        job(&image, &of_another, Wanted { labels: true, ..Wanted::default() }, &mut second),
    ];
    let error = pipeline.run(&mut jobs).expect_err("the second geometry is of another image");
    assert!(matches!(error, PipelineError::Geometry { .. }), "{error}");
    assert!(is_empty(&first) && is_empty(&second));
}

fn load(folder: &Path, precision: Precision) -> Result<Pipeline, PipelineError> {
    Pipeline::load(&folder.join("model.yaml"), &options(DeviceChoice::Cpu, precision))
}

#[test]
fn a_module_that_answers_otherwise_than_its_manifest_says_is_refused() {
    let plain = Model { stride: 4, ..Model::default() };
    let tuple = Model { tensors: Some(&["classes", "depth"]), ..plain };
    // (the module, what its manifest is changed to say)
    type Change = fn(&str) -> String;
    let cases: [(Model, Change, &str); 7] = [
        (
            plain,
            |t| t.replace("  width: 16", "  width: 32"),
            "shape [1, 5, 8, 16], but its manifest says [1, 5, 8, 32]",
        ),
        (plain, |t| t.replace("  width: 16\n  height: 8\n", ""), "but its manifest says [1, 5, 32, 64]"),
        (
            plain,
            |t| t.replace("output:\n", "output:\n  tensors: [classes, depth]\n"),
            "answered one tensor, but its manifest says a tuple of 2 (output.tensors)",
        ),
        (
            tuple,
            |t| t.replace("  tensors: [classes, depth]\n", ""),
            "answered a tuple of 2, but its manifest says one tensor",
        ),
        (
            tuple,
            |t| t.replace("[classes, depth]", "[classes, depth, other]"),
            "answered a tuple of 2, but its manifest says a tuple of 3",
        ),
        (
            tuple,
            |t| t.replace("[classes, depth]", "[depth, classes]"),
            "shape [1, 4, 8, 16], but its manifest says [1, 1, 8, 16]",
        ),
        // Floating point for a module that wants bytes.
        (Model { bytes: true, ..plain }, |t| t.replace("  kind: u8\n", ""), "libtorch could not run the network"),
    ];
    for (model, change, expected) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let path = model.write(folder.path());
        let text = std::fs::read_to_string(&path).expect("the manifest");
        let changed = change(&text);
        assert_ne!(text, changed, "{expected}: nothing was changed");
        std::fs::write(&path, changed).expect("written");
        let message = load(folder.path(), Precision::Fp32).expect_err(expected).to_string();
        assert!(message.contains(expected), "'{expected}' is not in: {message}");
    }
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let plain = Model { stride: 4, ..Model::default() };
    let labels = Model { labels: true, ..plain };
    let inverse = Model { depth: Some(("inverse", 90.0)), ..plain };
    type Change = fn(&str) -> String;
    let classes = Model { lacks: Some("depth"), ..plain };
    let depth = Model { lacks: Some("classes"), ..plain };
    let cases: [(Model, Change, &str); 15] = [
        (
            classes,
            |t| t.replace("output:\n", "output:\n  depth_channel: 4\n"),
            "output.depth_channel: expected none, the channel after the class channels where output.depth is given, \
             found 4",
        ),
        (depth, |t| t.replace("  depth_channel: 0\n", ""), "output.depth_channel: expected 0, the channel after"),
        (
            depth,
            |t| t.replace("output:\n", "output:\n  tensors: [classes, depth]\n"),
            "expected 'classes' not at all, as there are no classes, found it 1 times",
        ),
        (
            depth,
            |t| {
                let (before, after) = (t.split("  depth_channel").next(), t.split("60}\n").nth(1));
                [before.expect("what is before its depth"), after.expect("what is after it")].concat()
            },
            "expected classes, output.depth or both, found neither",
        ),
        (depth, |t| t.replace("score_channels: 0", "score_channels: 1"), "expected 0 (one for each of the classes"),
        (
            plain,
            |t| t.replace("output:\n", "output:\n  tensors: [classes]\n"),
            "expected 'depth' once, as output.depth is given, found it 0 times",
        ),
        (
            plain,
            |t| t.replace("output:\n", "output:\n  tensors: [depth, other]\n"),
            "expected 'classes' once, as there are classes, found it 0 times",
        ),
        (plain, |t| t.replace("output:\n", "output:\n  tensors: [classes, depth, depth]\n"), "found it 2 times"),
        (plain, |t| t.replace("output:\n", "output:\n  tensors: [scores]\n"), "unknown variant `scores`"),
        (
            labels,
            |t| t.replace("score_channels: 1", "score_channels: 4"),
            "expected 1 (one for each of the classes, or 1",
        ),
        (
            plain,
            |t| t.replace("score_channels: 4", "score_channels: 1"),
            "expected 4 (one for each of the classes, or 1",
        ),
        (inverse, |t| t.replace("scale: 90", "scale: -90"), "output.depth.scale: expected a number above 0, found -90"),
        (plain, |t| t.replace("channel_order: rgb", "channel_order: rgb\n  kind: u16"), "unknown variant `u16`"),
        (
            plain,
            |t| t.replace("name: kinds", r#"name: "ki\0nds""#),
            r#"name: expected text without control characters, found "ki\0nds""#,
        ),
        (
            plain,
            |t| t.replace("{id: 13, name: thing", r#"{id: 13, name: "thing\n""#),
            r#"classes: expected names without control characters, found "thing\n" of class 13"#,
        ),
    ];
    for (model, change, expected) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let path = model.write(folder.path());
        let text = std::fs::read_to_string(&path).expect("the manifest");
        let changed = change(&text);
        assert_ne!(text, changed, "{expected}: nothing was changed");
        std::fs::write(&path, changed).expect("written");
        let message = load(folder.path(), Precision::Fp32).expect_err(expected).to_string();
        assert!(message.contains(expected), "'{expected}' is not in: {message}");
    }
}

#[test]
fn a_module_of_bytes_has_no_other_precision() {
    let folder = tempfile::tempdir().expect("a folder");
    Model { bytes: true, stride: 4, ..Model::default() }.write(folder.path());
    for precision in [Precision::Fp16, Precision::Bf16] {
        let error = load(folder.path(), precision).expect_err("refused");
        assert!(matches!(error, PipelineError::Network(NetworkError::Precision { .. })), "{error}");
        assert!(error.to_string().contains("its input is bytes"), "{error}");
    }
}

#[test]
fn what_somebody_elses_module_does_otherwise_is_said_with_what_to_do() {
    let plain = Model { stride: 4, ..Model::default() };
    let tuple = Model { tensors: Some(&["other", "classes", "depth"]), ..plain };
    for (model, precision, expected) in [
        (
            Model { line: Some("z = torch.reshape(z, [1, 1, 8, 16])"), ..plain },
            Precision::Fp32,
            [
                "run the network with a batch of 2: ",
                "; if the module takes one frame at a time, set max_batch_size to 1",
            ],
        ),
        // It answers the first frame alone.
        (
            Model { line: Some("z = torch.slice(z, 0, 0, 1)"), ..tuple },
            Precision::Fp32,
            [
                "tensor depth (output.tensors[2]) of the network's answer has the shape [1, ",
                "set max_batch_size to 1; else ",
            ],
        ),
        (
            Model { line: Some("z = torch.avg_pool2d(z, [2, 2])"), ..tuple },
            Precision::Fp32,
            [
                "[1, 1, 4, 8], but its manifest says [1, 1, 8, 16]",
                "correct output.width, output.height (which all its tensors share",
            ],
        ),
        // Constants in half precision, as of a module that is frozen.
        (
            Model { line: Some("z = torch.conv2d(z, torch.ones([1, 1, 1, 1], dtype=5))"), ..plain },
            Precision::Fp32,
            ["cannot run in fp32 on cpu: ", "a module runs in its own parameters' kind: set precision to that"],
        ),
        (
            Model { line: Some("z = torch.conv2d(z, torch.ones([1, 1, 1, 1], dtype=6))"), ..plain },
            Precision::Bf16,
            [
                "cannot run in bf16 on cpu: ",
                "a module runs in its own parameters' kind: set precision to fp32, which is",
            ],
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        model.write(folder.path());
        let message = load(folder.path(), precision).expect_err(expected[0]).to_string();
        assert!(expected.iter().all(|words| message.contains(words)), "{expected:?} are not in: {message}");
        assert!(!message.contains("export the model again"), "{message}");
    }
}

#[test]
fn an_engine_is_refused_before_anything_is_compiled_or_loaded_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let prepare = |model: Model, compile: bool| {
        model.write(folder.path());
        let artifact = export::load(folder.path()).expect("it is valid");
        let batch = BatchRange { min: 1, best: 1, max: 1 };
        let cache = Some(cache.clone());
        let build = BuildOptions { precision: EnginePrecision::Fp16, batch, engine: None, compile, cache };
        tensorrt::prepare(&artifact, 0, &build).expect_err("there is no engine")
    };
    let plain = Model { stride: 4, ..Model::default() };
    let error = prepare(Model { bytes: true, ..plain }, true);
    assert!(matches!(error, TensorRtError::Bytes), "{error}");
    assert!(error.to_string().contains("set backend to torchscript"), "{error}");
    let error = prepare(plain, false);
    assert!(matches!(error, TensorRtError::NotCompiled(_)), "{error}");
    assert!(!cache.exists());
}

#[test]
fn a_class_that_would_pass_for_unlabelled_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = Model { labels: true, stride: 4, ..Model::default() }.write(folder.path());
    let text = std::fs::read_to_string(&path).expect("the manifest");
    let (head, rest) = text.split_once("\nclasses:\n").expect("the class table");
    let (_, tail) = rest.split_once("files:").expect("the files");
    let head = head.replace("{classes: 4}", "{classes: 256}");
    let load_with = |ids: Vec<u8>| {
        let name = |id: u8| if id == 255 { "unlabelled" } else { "thing" };
        let line = |id: &u8| format!("- {{id: {id}, name: {}, color: [1, 2, 3]}}\n", name(*id));
        let table: String = ids.iter().map(line).collect();
        std::fs::write(&path, format!("{head}\nclasses:\n{table}files:{tail}")).expect("written");
        load(folder.path(), Precision::Fp32)
    };
    load_with((0..=255).collect()).expect("the last one is 'unlabelled' itself");
    let message = load_with((0..=255).rev().collect()).expect_err("its last class cannot be told").to_string();
    assert!(message.contains("256 classes") && message.contains("put 'unlabelled' last"), "{message}");
}

#[test]
fn the_documented_manifest_is_a_valid_one() {
    let text = include_str!("../docs/MODELS.md");
    let yaml = text.split("```yaml\n").nth(1).and_then(|t| t.split("```").next()).expect("an example");
    let folder = tempfile::tempdir().expect("a folder");
    let network = folder.path().join("network.ts");
    std::fs::write(&network, "any").expect("written");
    let yaml = yaml.replace("0f3c...", &export::sha256(&network).expect("a hash"));
    std::fs::write(folder.path().join("model.yaml"), yaml).expect("written");
    let manifest = export::load(folder.path()).expect("it is valid").manifest;
    assert_eq!((manifest.answer_size(), manifest.output.channels()), ((256, 128), 4));
}
