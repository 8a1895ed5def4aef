//! The report: one HTML page that holds all it shows. It needs no network and runs no script.

use super::classes::ClassTable;
use super::depth::DepthReport;
use super::ground::GroundReport;
use super::leak::{LeakReport, ZoneReport};
use super::normals::NormalReport;
use super::pictures::Exhibit;
use super::plots::{self, PlotError};
use super::summary::{Both, Depth, Segmentation, Summary};
use crate::data::classes;
use crate::data::colour::{depth_colour, ERROR_FACTOR, SCALE_MAX_M, SCALE_MIN_M};
use std::fmt::Write as _;

/// What was judged, for the head of the page.
#[derive(Debug, Clone)]
pub struct Head {
    /// Name of the model.
    pub model: String,
    /// The data set and its split.
    pub data: String,
    /// More lines: (what, value).
    pub facts: Vec<(String, String)>,
}

/// Frames under a heading.
#[derive(Debug, Clone)]
pub struct Gallery {
    /// What they have in common.
    pub title: String,
    /// The frames.
    pub exhibits: Vec<Exhibit>,
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1240px;margin:2em auto;\
padding:0 1em}h1{font-size:1.6em}h2{margin-top:2em;border-bottom:1px solid #ccc}table{border-collapse:collapse;\
margin:1em 0;font-variant-numeric:tabular-nums}th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid #e4e4e4}\
th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto;display:block;margin:1em 0}\
.big{display:flex;flex-wrap:wrap;gap:1em}.big div{background:#f3f5f8;border-radius:6px;padding:.6em 1.2em}\
.big b{display:block;font-size:1.7em}.scroll{overflow-x:auto}.scroll svg{max-width:none}.tiles{display:flex;flex-wrap:wrap;gap:6px}\
.tiles figure{margin:0;width:284px}.tiles img{width:100%;display:block}figcaption{font-size:.8em;color:#555}\
.frame{margin:1em 0 1.6em}.note{color:#555;max-width:60em;overflow-wrap:anywhere}\
.scale{display:inline-block;width:240px;height:12px;margin:0 .5em}\
.class{display:inline-block;white-space:nowrap;margin-right:1em}\
.class i{display:inline-block;width:.8em;height:.8em;border:1px solid #888;margin-right:.3em}";

/// The page.
///
/// # Errors
/// A plot cannot be drawn.
pub fn page(head: &Head, table: &ClassTable, summary: &Summary, galleries: &[Gallery]) -> Result<String, PlotError> {
    let title = format!("{} on {}", head.model, head.data);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{0}</title>\n<style>{STYLE}</style>\n\
         </head>\n<body>\n<h1>{0}</h1>\n",
        escape(&title)
    );
    out += "<p class=\"note\">";
    for (what, value) in &head.facts {
        out += &format!("{}: {}<br>\n", escape(what), escape(value));
    }
    out += "</p>\n";
    main_figures(&mut out, summary);
    if let Some(segmentation) = &summary.segmentation {
        segmentation_part(&mut out, table, segmentation, summary.frames)?;
    }
    if let Some(depth) = &summary.depth {
        depth_part(&mut out, table, depth, summary.frames)?;
    }
    if let Some(leak) = &summary.leak {
        leak_part(&mut out, leak)?;
    }
    if let Some(ground) = &summary.ground {
        ground_part(&mut out, ground);
    }
    if let Some(normals) = &summary.normals {
        normals_part(&mut out, normals);
    }
    galleries_part(&mut out, table, galleries);
    out += "</body>\n</html>\n";
    Ok(out)
}

/// For text and attributes of HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn number(value: f64, decimals: usize) -> String {
    if value.is_finite() {
        format!("{value:.decimals$}")
    } else {
        "-".into()
    }
}

fn optional(value: Option<f64>, decimals: usize) -> String {
    number(value.unwrap_or(f64::NAN), decimals)
}

fn main_figures(out: &mut String, summary: &Summary) {
    let mut figures = Vec::new();
    if let Some(s) = &summary.segmentation {
        figures.push(("mIoU", number(s.pooled.miou, 4)));
        figures.push(("pixel accuracy", number(s.pooled.pixel_accuracy, 4)));
    }
    if let Some(d) = &summary.depth {
        figures.push(("AbsRel", number(d.pooled.plain.abs_rel, 4)));
        figures.push(("RMSE", format!("{} m", number(d.pooled.plain.rmse_m, 2))));
        figures.push(("delta &lt; 1.25", number(d.pooled.plain.delta[0], 4)));
    }
    *out += "<div class=\"big\">\n";
    for (name, value) in figures {
        *out += &format!("<div><b>{value}</b>{name}</div>\n");
    }
    *out += "</div>\n";
    let lacking = [("labels", summary.segmentation.is_none()), ("depth", summary.depth.is_none())];
    for (what, _) in lacking.iter().filter(|(_, lacks)| *lacks) {
        *out += &format!("<p>No frame of this data has {what}, or the model answers none: it is not judged.</p>\n");
    }
}

/// A table; the first row is its head.
fn rows(out: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    *out += "<div class=\"scroll\"><table>\n<tr>";
    for cell in head {
        *out += &format!("<th>{cell}</th>");
    }
    *out += "</tr>\n";
    for row in rows {
        *out += "<tr>";
        for cell in row {
            *out += &format!("<td>{}</td>", escape(&cell));
        }
        *out += "</tr>\n";
    }
    *out += "</table></div>\n";
}

fn frames_note(judged: usize, frames: usize) -> String {
    if judged == frames {
        format!("{frames} frames")
    } else {
        format!("{judged} of {frames} frames, which have it")
    }
}

fn segmentation_part(out: &mut String, table: &ClassTable, s: &Segmentation, frames: usize) -> Result<(), PlotError> {
    let _ = writeln!(
        out,
        "<h2>Segmentation</h2>\n<p class=\"note\">{}. One confusion matrix over all of them; unlabelled pixels do not \
         count, a pixel without an answer is wrong. IoU = right / (true + predicted - right).</p>",
        frames_note(s.frames, frames)
    );
    if s.pooled.pixels == 0 {
        *out += "<p>No pixel is labelled: it is not judged.</p>\n";
        return Ok(());
    }
    let line = |name: &str, r: &super::confusion::SegmentationReport| {
        vec![name.into(), number(r.miou, 4), number(r.pixel_accuracy, 4), r.pixels.to_string()]
    };
    let pooled = line(&format!("all pixels, mIoU over {}", s.mean_over()), &s.pooled);
    let mut table_rows = vec![pooled, line("mean of the images", &s.per_image)];
    for (name, side) in [("foreground", &s.foreground), ("background", &s.background)] {
        table_rows.extend(side.as_ref().map(|r| line(name, r)));
    }
    rows(out, &["", "mIoU", "pixel accuracy", "pixels"], table_rows.into_iter());
    let _ = writeln!(out, "<p class=\"note\">{}</p>", super::summary::split_text());
    *out += &plots::iou(table, s)?;
    let class_row = |c: &super::summary::ClassReport| {
        vec![
            c.name.clone(),
            c.is.join(", "),
            optional(c.iou, 4),
            optional(c.recall, 4),
            optional(c.precision, 4),
            c.pixels.to_string(),
        ]
    };
    rows(
        out,
        &["class", "predictions that count", "IoU", "recall", "precision", "true pixels"],
        s.classes.iter().map(class_row),
    );
    *out += &plots::confusion(s)?;
    if s.by_distance.iter().any(|b| b.report.pixels > 0) {
        *out += &plots::segmentation_by_distance(s)?;
    }
    *out += &plots::segmentation_by_row(s)?;
    Ok(())
}

const DEPTH_HEAD: [&str; 11] = [
    "",
    "AbsRel",
    "SqRel (m)",
    "RMSE (m)",
    "RMSE log",
    "SILog",
    "bias (ln)",
    "&delta; &lt; 1.25",
    "&delta; &lt; 1.25&sup2;",
    "&delta; &lt; 1.25&sup3;",
    "pixels",
];

fn depth_row(name: &str, r: &DepthReport) -> Vec<String> {
    let mut row = vec![name.into(), number(r.abs_rel, 4), number(r.sq_rel_m, 3), number(r.rmse_m, 3)];
    row.extend([number(r.rmse_log, 4), number(r.silog, 2), number(r.log_bias, 4)]);
    row.extend(r.delta.map(|d| number(d, 4)));
    row.push(r.pixels.to_string());
    row
}

fn depth_part(out: &mut String, table: &ClassTable, d: &Depth, frames: usize) -> Result<(), PlotError> {
    let _ = writeln!(
        out,
        "<h2>Depth</h2>\n<p class=\"note\">{}. Judged where the truth lies between {} m and {} m; the prediction is \
         clamped to that. Median-scaled: each frame's prediction times median(truth) / median(prediction) of that \
         frame{}.</p>",
        frames_note(d.frames, frames),
        d.judged_m.0,
        d.judged_m.1,
        d.median_ratio.map_or(String::new(), |r| format!(
            " (mean {}, standard deviation {})",
            number(r.mean, 4),
            number(r.deviation, 4)
        ))
    );
    if d.pooled.plain.missing > 0 {
        let _ = writeln!(out, "<p>{} judged pixels have no prediction.</p>", d.pooled.plain.missing);
    }
    let both = |name: &str, b: &Both| {
        [depth_row(name, &b.plain), depth_row(&format!("{name}, median-scaled"), &b.median_scaled)]
    };
    let mut main = Vec::new();
    main.extend(both("all pixels", &d.pooled));
    main.extend(both("mean of the images", &d.per_image));
    for (name, side) in [("foreground", &d.foreground), ("background", &d.background)] {
        main.extend(side.as_ref().map(|b| both(name, b)).into_iter().flatten());
    }
    rows(out, &DEPTH_HEAD, main.into_iter());
    *out += &plots::depth_by_distance(d)?;
    rows(
        out,
        &DEPTH_HEAD,
        d.by_distance.iter().map(|b| depth_row(&format!("{} to {} m", b.band.from_m, b.band.to_m), &b.report.plain)),
    );
    *out += &plots::depth_by_row(d)?;
    if !d.by_class.is_empty() {
        *out += &plots::abs_rel_by_class(table, d)?;
        rows(out, &DEPTH_HEAD, d.by_class.iter().map(|c| depth_row(&c.name, &c.errors.plain)));
    }
    *out += &plots::distributions(d)?;
    *out += &plots::joint(d)?;
    let outside = |counts: &[u64], end: usize| 100.0 * counts[end] as f64 / counts.iter().sum::<u64>().max(1) as f64;
    let last = d.distribution.predicted.len() - 1;
    let _ = writeln!(
        out,
        "<p class=\"note\">Outside of these plots: {:.2}% of the truth and {:.2}% of the predictions are nearer than \
         {:.0} m, {:.2}% of the predictions {:.0} m away or farther.</p>",
        outside(&d.distribution.truth, 0),
        outside(&d.distribution.predicted, 0),
        d.distribution.edges_m[0],
        outside(&d.distribution.predicted, last),
        d.judged_m.1
    );
    Ok(())
}

fn leak_part(out: &mut String, leak: &LeakReport) -> Result<(), PlotError> {
    let _ = writeln!(
        out,
        "<h2>The bottom of poles</h2>\n<p class=\"note\">{} poles that stand on visible ground, {} of them with depth; \
         each counts once. Bottom: the lowest fifth of a pole; middle: its middle fifth. Beside and below: true ground \
         within a pole's width; apart: true ground in the same rows, 4 to 8 widths away. A depth leak below 0: the pole \
         leans towards the camera; its bottom is too near, or what is behind it shows through its middle. The errors of \
         the zones tell which.</p>",
        leak.poles, leak.poles_with_depth
    );
    let figures = [
        ("depth leak: ln error of the bottom minus that of the middle", leak.depth_leak),
        ("the same, median of the poles", leak.depth_leak_median),
        ("ground's depth leak: ln error beside and below minus that apart", leak.ground_depth_leak),
        ("bottom labelled as ground, minus the same of the middle", leak.foot_lost_to_ground),
        ("ground beside and below labelled as pole, minus the same apart", leak.ground_lost_to_pole),
    ];
    let some = figures.iter().filter(|(_, value)| value.is_some());
    rows(out, &["leak", ""], some.map(|(name, value)| vec![(*name).into(), optional(*value, 4)]));
    let zones = [
        ("middle of the pole", &leak.middle),
        ("bottom of the pole", &leak.bottom),
        ("ground beside", &leak.beside),
        ("ground below", &leak.below),
        ("ground apart", &leak.apart),
    ];
    let zone_row = |(name, z): (&str, &ZoneReport)| {
        let near = optional(z.taken_as_near, 4);
        vec![name.into(), optional(z.log_error, 4), near, optional(z.as_pole, 4), optional(z.as_ground, 4)]
    };
    let head = [
        "zone",
        "mean ln(prediction / truth)",
        "poles more than 5% too near",
        "labelled as pole",
        "labelled as ground",
    ];
    rows(out, &head, zones.into_iter().map(zone_row));
    *out += &plots::leak(leak)?;
    Ok(())
}

fn ground_part(out: &mut String, ground: &GroundReport) {
    let _ = writeln!(
        out,
        "<h2>The ground</h2>\n<p class=\"note\">What predicted depth has to look like even where no truth tells: upwards on \
         the true road it grows, from one of 32 bands of rows to the next, and things ({} that stand on visible ground) \
         are as far away as the ground under them.</p>",
        ground.things
    );
    let figures = [
        ("steps upwards on the road in which depth grows", ground.road_steps_growing),
        ("frames in which it grows at every step", ground.road_frames_growing),
        ("things whose foot is within 15% of the ground's depth", ground.feet_on_ground),
        ("median ln(depth of the foot / depth of the ground)", ground.foot_log_ratio),
    ];
    rows(out, &["measure", ""], figures.iter().map(|(name, value)| vec![(*name).into(), optional(*value, 4)]));
}

fn normals_part(out: &mut String, normals: &NormalReport) {
    let _ = writeln!(
        out,
        "<h2>Surface normals</h2>\n<p class=\"note\">Angles between the predicted normals and those that the true depth shows, \
         on {} frames, {} pixels ({} more without a prediction).</p>",
        normals.frames, normals.pixels, normals.missing
    );
    let [near, middle, far] = normals.within.map(Some);
    let figures = [
        ("mean angle, degrees", Some(normals.mean_deg), 2),
        ("median angle, degrees", Some(normals.median_deg), 2),
        ("pixels within 11.25 degrees", near, 4),
        ("pixels within 22.5 degrees", middle, 4),
        ("pixels within 30 degrees", far, 4),
    ];
    rows(out, &["measure", ""], figures.iter().map(|(name, value, n)| vec![(*name).into(), optional(*value, *n)]));
}

/// The colours of classes with their names.
fn legend(out: &mut String, what: &str, classes: impl Iterator<Item = (String, [u8; 3])>) {
    *out += &format!("<p class=\"note\">{what}: ");
    for (name, [r, g, b]) in classes {
        let name = escape(&name);
        *out += &format!("<span class=\"class\"><i style=\"background:rgb({r},{g},{b})\"></i>{name}</span>\n");
    }
    *out += "</p>\n";
}

/// Of what the galleries' pictures show. Predictions are drawn in Cityscapes' classes, the truth in those that are judged.
fn legends(out: &mut String, table: &ClassTable, galleries: &[Gallery]) {
    let shows = |title| galleries.iter().flat_map(|g| &g.exhibits).flat_map(|e| &e.tiles).any(|t| t.title == title);
    let predicted: Vec<_> =
        classes::cityscapes().into_iter().take(classes::SCORED_CLASSES).map(|c| (c.name, c.color)).collect();
    let judged: Vec<_> =
        table.classes().iter().enumerate().map(|(i, c)| (c.name.clone(), table.color(i as u8))).collect();
    let (shows_predicted, shows_judged) = (shows("predicted classes"), shows("true classes"));
    if shows_predicted && shows_judged && judged == predicted {
        return legend(out, "Classes", judged.into_iter());
    }
    if shows_predicted {
        legend(out, "Predicted classes", predicted.into_iter());
    }
    if shows_judged {
        legend(out, "True classes", judged.into_iter());
    }
}

fn galleries_part(out: &mut String, table: &ClassTable, galleries: &[Gallery]) {
    if galleries.iter().all(|g| g.exhibits.is_empty()) {
        return;
    }
    let stops: Vec<_> = (0..=12)
        .map(|i| {
            let depth_m = SCALE_MIN_M * (SCALE_MAX_M / SCALE_MIN_M).powf(i as f32 / 12.0);
            let [r, g, b] = depth_colour(depth_m);
            format!("rgb({r},{g},{b})")
        })
        .collect();
    let _ = writeln!(
        out,
        "<h2>Frames</h2>\n<p class=\"note\">Depth, logarithmic: {SCALE_MIN_M} m<span class=\"scale\" \
         style=\"background:linear-gradient(90deg,{})\"></span>{SCALE_MAX_M} m and beyond (the sky); black: unknown. Depth error: red is \
         too near, blue too far, full colour at a factor of {ERROR_FACTOR}; black: not judged.</p>",
        stops.join(",")
    );
    legends(out, table, galleries);
    for gallery in galleries.iter().filter(|g| !g.exhibits.is_empty()) {
        let _ = writeln!(out, "<h3>{}</h3>", escape(&gallery.title));
        for exhibit in &gallery.exhibits {
            let _ = writeln!(out, "<div class=\"frame\"><p>{}</p>\n<div class=\"tiles\">", escape(&exhibit.caption));
            // A caption begins with the frame's name.
            let frame = escape(exhibit.caption.split(", ").next().unwrap_or_default());
            for tile in &exhibit.tiles {
                let title = escape(tile.title);
                let _ = writeln!(
                    out,
                    "<figure><img src=\"{}\" alt=\"{title} of {frame}\"><figcaption>{title}</figcaption></figure>",
                    tile.address
                );
            }
            *out += "</div></div>\n";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_the_page() {
        assert_eq!(escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
        let mut out = String::new();
        rows(&mut out, &["a"], [vec!["<script>".into()]].into_iter());
        assert!(!out.contains("<script>") && out.contains("&lt;script&gt;"));
    }
}
