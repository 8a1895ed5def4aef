//! The report's plots, as SVG.

use super::classes::ClassTable;
use super::distribution::{Distribution, BINS};
use super::leak::{LeakReport, ZoneReport};
use super::report::escape;
use super::summary::{ByDistance, ByRow, Depth, Segmentation};
use crate::data::colour::share_colour;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, KeyPointWeight, Ranged};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Why a plot cannot be drawn.
pub type PlotError = DrawingAreaErrorKind<std::io::Error>;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Scale, Scale>>;

/// Plotters takes sizes as the height of a line: the letters' own size is 1.24 times less.
const TEXT_PX: i32 = 16;
const TITLE_PX: i32 = 19;
/// Width of a character of the text, about.
const CHARACTER_PX: i32 = 7;
/// Of one panel.
const PANEL_PX: (u32, u32) = (460, 340);
/// Wider than this, a picture keeps its size on a screen that is not; bars with a name each can still be read when they shrink.
const WIDE_PX: u32 = 560;
const GRID: RGBColor = RGBColor(228, 228, 228);
const INK: RGBColor = RGBColor(60, 60, 60);
/// Colours that people with any colour vision tell apart (Okabe and Ito, 2008).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(213, 94, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);

/// A linear scale with the grid lines that it is told, in either direction.
struct Scale {
    ends: (f64, f64),
    ticks: Vec<f64>,
}

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (value - self.ends.0) / (self.ends.1 - self.ends.0);
        (f64::from(first) + share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight() {
            KeyPointWeight::Bold => self.ticks.clone(),
            KeyPointWeight::Any => vec![],
        }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.ends.0..self.ends.1
    }
}

/// A picture of panels side by side; `name` is what it is to who does not see it. One that would be too small to read on a narrow
/// screen lies in a frame that scrolls.
fn draw(
    name: &str,
    (columns, panel): (usize, (u32, u32)),
    content: impl FnOnce(&[Area<'_>]) -> Result<(), PlotError>,
) -> Result<String, PlotError> {
    let mut svg = String::new();
    let width = panel.0 * columns as u32;
    {
        let area = SVGBackend::with_string(&mut svg, (width, panel.1)).into_drawing_area();
        area.fill(&WHITE)?;
        content(&area.split_evenly((1, columns)))?;
        area.present()?;
    }
    let head = svg.find('>').map_or(0, |end| end + 1);
    svg.insert_str(head, &format!("\n<title>{}</title>", escape(name)));
    let svg = svg.replacen("<svg ", "<svg role=\"img\" ", 1);
    Ok(if width > WIDE_PX { format!("<div class=\"scroll\">{svg}</div>\n") } else { svg })
}

fn rgb([r, g, b]: [u8; 3]) -> RGBColor {
    RGBColor(r, g, b)
}

fn text_style<'a>(px: i32, colour: RGBColor, h: HPos, v: VPos) -> TextStyle<'a> {
    ("sans-serif", px).into_font().color(&colour).pos(Pos::new(h, v))
}

/// One axis of a panel.
struct Axis<'a> {
    /// What and in which unit.
    name: &'a str,
    /// First and last value.
    ends: (f64, f64),
    /// Where a number stands.
    ticks: Vec<f64>,
    /// How it is written.
    write: &'a dyn Fn(&f64) -> String,
    /// Pixels for the numbers and the name.
    room_px: u32,
}

fn percent(share: &f64) -> String {
    format!("{:.0}%", 100.0 * share)
}

fn plain(value: &f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// A depth by its logarithm.
fn exp_metres(log: &f64) -> String {
    format!("{:.0}", log.exp())
}

impl<'a> Axis<'a> {
    fn new(name: &'a str, ends: (f64, f64), write: &'a dyn Fn(&f64) -> String) -> Self {
        let (low, high) = (ends.0.min(ends.1), ends.0.max(ends.1));
        let step = step(high - low);
        let (first, last) = ((low / step - 1e-6).ceil() as i64, (high / step + 1e-6).floor() as i64);
        Self { name, ends, ticks: (first..=last).map(|i| i as f64 * step).collect(), write, room_px: 66 }
    }

    fn scale(&self) -> Scale {
        Scale { ends: self.ends, ticks: self.ticks.clone() }
    }

    /// Without numbers.
    fn bare(ends: (f64, f64), room_px: u32) -> Self {
        Self { name: "", ends, ticks: vec![], write: &plain, room_px }
    }

    /// Metres by their logarithm.
    fn log_metres(name: &'a str, near_m: f64, far_m: f64) -> Self {
        let marks = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0_f64];
        let ticks = marks.into_iter().filter(|m| (near_m..=far_m * 1.0001).contains(m)).map(f64::ln).collect();
        Self { name, ends: (near_m.ln(), far_m.ln()), ticks, write: &exp_metres, room_px: 66 }
    }
}

/// 1, 2 or 5 times a power of ten: four to nine of it are the range.
fn step(range: f64) -> f64 {
    if !(range.is_finite() && range > 0.0) {
        return 1.0;
    }
    let raw = range / 6.0;
    let power = 10_f64.powf(raw.log10().floor());
    let times = raw / power;
    power
        * if times < 1.5 {
            1.0
        } else if times < 3.5 {
            2.0
        } else if times < 7.5 {
            5.0
        } else {
            10.0
        }
}

/// The end of an axis from 0 for these values: a whole number of steps. NaN is left out.
fn end(values: impl Iterator<Item = f64>) -> f64 {
    let most = values.filter(|v| v.is_finite()).fold(0.0, f64::max);
    if most <= 0.0 {
        return 1.0;
    }
    (most / step(most)).ceil() * step(most)
}

/// The ends of an axis that holds 0 and these values.
fn ends_around_zero(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    (-end(values.clone().map(|v| -v).chain([0.01])), end(values.chain([0.01])))
}

/// Title, frame, grid, numbers and names of the axes.
fn axes<'a, 'b>(area: &'a Area<'b>, title: &str, x: &Axis<'_>, y: &Axis<'_>) -> Result<Chart<'a, 'b>, PlotError> {
    area.draw_text(title, &text_style(TITLE_PX, BLACK, HPos::Left, VPos::Top), (12, 8))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(50)
        .margin_right(24)
        .margin_bottom(6)
        .margin_left(6)
        .x_label_area_size(if x.name.is_empty() { 10 } else { 44 })
        .y_label_area_size(y.room_px)
        .build_cartesian_2d(x.scale(), y.scale())?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(("sans-serif", TEXT_PX).into_font().color(&INK))
        .x_labels(x.ticks.len())
        .y_labels(y.ticks.len())
        .x_label_formatter(&x.write)
        .y_label_formatter(&y.write)
        .x_desc(x.name)
        .y_desc(y.name)
        .draw()?;
    Ok(chart)
}

/// Names of lines in their colours, in one row under the title.
fn legend(area: &Area<'_>, entries: &[(&str, RGBColor)]) -> Result<(), PlotError> {
    let mut left = 14;
    for (name, colour) in entries {
        area.draw(&Rectangle::new([(left, 34), (left + 18, 38)], colour.filled()))?;
        area.draw_text(name, &text_style(TEXT_PX, INK, HPos::Left, VPos::Center), (left + 24, 36))?;
        left += 24 + CHARACTER_PX * name.chars().count() as i32 + 18;
    }
    Ok(())
}

/// One line of a panel; it breaks where a value is not finite.
struct Line<'a> {
    name: &'a str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

fn lines(
    area: &Area<'_>,
    title: &str,
    x: &Axis<'_>,
    y: &Axis<'_>,
    lines: &[Line<'_>],
    dots: bool,
) -> Result<(), PlotError> {
    let mut chart = axes(area, title, x, y)?;
    for line in lines {
        let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
        for piece in line.points.split(|p| !finite(p)).filter(|piece| !piece.is_empty()) {
            if piece.len() > 1 {
                chart.draw_series(LineSeries::new(piece.iter().copied(), line.colour.stroke_width(2)))?;
            }
            if dots || piece.len() == 1 {
                chart.draw_series(piece.iter().map(|&p| Circle::new(p, 3, line.colour.filled())))?;
            }
        }
    }
    legend(area, &lines.iter().map(|l| (l.name, l.colour)).collect::<Vec<_>>())
}

/// A horizontal bar.
struct Bar {
    name: String,
    colour: RGBColor,
    value: Option<f64>,
}

/// Horizontal bars with their names and values.
fn bars(area: &Area<'_>, title: &str, axis: &str, last: f64, bars: &[Bar]) -> Result<(), PlotError> {
    let longest = bars.iter().map(|b| b.name.chars().count()).max().unwrap_or(0) as u32;
    let x = Axis::new(axis, (0.0, last), &plain);
    let y = Axis::bare((bars.len() as f64, 0.0), longest * CHARACTER_PX as u32 + 16);
    let mut chart = axes(area, title, &x, &y)?;
    for (i, bar) in bars.iter().enumerate() {
        let middle = i as f64 + 0.5;
        let name = text_style(TEXT_PX, INK, HPos::Right, VPos::Center);
        chart.draw_series([EmptyElement::at((0.0, middle)) + Text::new(bar.name.clone(), (-8, 0), name)])?;
        let shown = bar.value.unwrap_or(0.0).clamp(0.0, last);
        chart.draw_series([Rectangle::new([(0.0, middle - 0.36), (shown, middle + 0.36)], bar.colour.filled())])?;
        let text = bar.value.map_or("none".into(), |v| format!("{v:.3}"));
        // Inside of a long bar, beside a short one.
        let (from, h, ink) =
            if shown > 0.8 * last { (-5, HPos::Right, over(bar.colour)) } else { (5, HPos::Left, INK) };
        let style = text_style(TEXT_PX, ink, h, VPos::Center);
        chart.draw_series([EmptyElement::at((shown, middle)) + Text::new(text, (from, 0), style)])?;
    }
    Ok(())
}

/// Black or white, whichever is read better on this colour.
fn over(RGBColor(r, g, b): RGBColor) -> RGBColor {
    if 299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b) > 140_000 {
        BLACK
    } else {
        WHITE
    }
}

/// Upright bars: name, colour, and the value of a band.
type Series<'a, T> = (&'a str, RGBColor, &'a dyn Fn(&T) -> f64);

/// Groups of upright bars, one group a band of distance.
fn by_band<T>(
    area: &Area<'_>,
    title: &str,
    axis: &str,
    bands: &[ByDistance<T>],
    series: &[Series<'_, T>],
) -> Result<(), PlotError> {
    let values = bands.iter().flat_map(|b| series.iter().map(|s| (s.2)(&b.report)));
    let names: Vec<_> = bands.iter().map(|b| format!("{} to {}", b.band.from_m, b.band.to_m)).collect();
    let name = |at: &f64| names.get(*at as usize).cloned().unwrap_or_default();
    let mut x = Axis::new("true distance in m", (0.0, bands.len() as f64), &name);
    x.ticks = (0..bands.len()).map(|i| i as f64 + 0.5).collect();
    let y = Axis::new(axis, (0.0, end(values)), &plain);
    let mut chart = axes(area, title, &x, &y)?;
    let width = 0.8 / series.len() as f64;
    for (s, (_, colour, value)) in series.iter().enumerate() {
        for (i, band) in bands.iter().enumerate() {
            let (left, value) = (i as f64 + 0.1 + s as f64 * width, value(&band.report));
            if value.is_finite() {
                chart.draw_series([Rectangle::new([(left, 0.0), (left + width * 0.95, value)], colour.filled())])?;
            }
        }
    }
    legend(area, &series.iter().map(|(name, colour, _)| (*name, *colour)).collect::<Vec<_>>())
}

/// IoU of each class, in its colour.
pub fn iou(table: &ClassTable, segmentation: &Segmentation) -> Result<String, PlotError> {
    let items: Vec<_> = segmentation
        .classes
        .iter()
        .enumerate()
        .map(|(i, c)| Bar { name: c.name.clone(), colour: rgb(table.color(i as u8)), value: c.iou })
        .collect();
    let title = format!("IoU of each class; mean {:.3}", segmentation.pooled.miou);
    draw(&title, (1, (560, 110 + 22 * items.len() as u32)), |a| bars(&a[0], &title, "IoU", 1.0, &items))
}

/// AbsRel of each class, in its colour.
pub fn abs_rel_by_class(table: &ClassTable, depth: &Depth) -> Result<String, PlotError> {
    let colour = |name: &str| {
        let class = table.classes().iter().position(|c| c.name == name);
        rgb(class.map_or([0; 3], |i| table.color(i as u8)))
    };
    let items: Vec<_> = depth
        .by_class
        .iter()
        .map(|c| Bar {
            name: c.name.clone(),
            colour: colour(&c.name),
            value: Some(c.errors.plain.abs_rel).filter(|v| v.is_finite()),
        })
        .collect();
    let last = end(items.iter().filter_map(|b| b.value));
    let title = format!("AbsRel of each class; all pixels {:.3}", depth.pooled.plain.abs_rel);
    draw(&title, (1, (560, 110 + 22 * items.len() as u32)), |a| {
        bars(&a[0], &title, "AbsRel, mean of |prediction - truth| / truth", last, &items)
    })
}

/// The confusion matrix, each row as shares of its true class.
pub fn confusion(segmentation: &Segmentation) -> Result<String, PlotError> {
    const CELL: i32 = 34;
    let names: Vec<_> = segmentation.classes.iter().map(|c| c.name.as_str()).chain(["no class"]).collect();
    let longest = names.iter().map(|n| n.chars().count()).max().unwrap_or(0) as i32 * CHARACTER_PX;
    let (left, top) = (longest + 44, longest + 66);
    let (rows, columns) = (segmentation.confusion.len() as i32, names.len() as i32);
    // Wide enough for the title.
    let size = ((left + CELL * columns + 16).max(520) as u32, (top + CELL * rows + 16) as u32);
    let title = "Confusion: rows are true, columns predicted; % of the row";
    draw(title, (1, size), |areas| {
        let area = &areas[0];
        area.draw_text(title, &text_style(TITLE_PX, BLACK, HPos::Left, VPos::Top), (12, 8))?;
        let middle = |i: usize| CELL * i as i32 + CELL / 2;
        for (column, name) in names.iter().enumerate() {
            let style = ("sans-serif", TEXT_PX).into_font().transform(FontTransform::Rotate270).color(&INK);
            let style = style.pos(Pos::new(HPos::Left, VPos::Center));
            area.draw_text(name, &style, (left + middle(column), top - 8))?;
        }
        let right = text_style(TEXT_PX, INK, HPos::Right, VPos::Center);
        for (row, counts) in segmentation.confusion.iter().enumerate() {
            area.draw_text(names[row], &right, (left - 8, top + middle(row)))?;
            let all: u64 = counts.iter().sum();
            for (column, &count) in counts.iter().enumerate() {
                let (x, y) = (left + CELL * column as i32, top + CELL * row as i32);
                let share = if all > 0 { count as f64 / all as f64 } else { 0.0 };
                let colour = rgb(if all > 0 { share_colour(share as f32) } else { [245; 3] });
                area.draw(&Rectangle::new([(x, y), (x + CELL - 1, y + CELL - 1)], colour.filled()))?;
                if row == column {
                    area.draw(&Rectangle::new([(x, y), (x + CELL - 1, y + CELL - 1)], INK.stroke_width(1)))?;
                }
                if share >= 0.005 {
                    let style = text_style(14, over(colour), HPos::Center, VPos::Center);
                    area.draw_text(&format!("{:.0}", 100.0 * share), &style, (x + CELL / 2, y + CELL / 2))?;
                }
            }
        }
        Ok(())
    })
}

/// Depth errors by distance.
pub fn depth_by_distance(depth: &Depth) -> Result<String, PlotError> {
    let bands = &depth.by_distance;
    draw("AbsRel and RMSE by distance", (2, PANEL_PX), |areas| {
        by_band(
            &areas[0],
            "AbsRel by distance",
            "AbsRel",
            bands,
            &[("as predicted", BLUE, &|b| b.plain.abs_rel), ("median-scaled", ORANGE, &|b| b.median_scaled.abs_rel)],
        )?;
        by_band(
            &areas[1],
            "RMSE by distance",
            "RMSE in m",
            bands,
            &[("as predicted", BLUE, &|b| b.plain.rmse_m), ("median-scaled", ORANGE, &|b| b.median_scaled.rmse_m)],
        )
    })
}

/// Segmentation by distance.
pub fn segmentation_by_distance(segmentation: &Segmentation) -> Result<String, PlotError> {
    draw("Segmentation by distance", (1, PANEL_PX), |areas| {
        by_band(
            &areas[0],
            "Segmentation by distance",
            "share, 0 to 1",
            &segmentation.by_distance,
            &[("mIoU", BLUE, &|r| r.miou), ("pixel accuracy", ORANGE, &|r| r.pixel_accuracy)],
        )
    })
}

fn row_axis() -> Axis<'static> {
    Axis::new("image row: 0% is the top", (1.0, 0.0), &percent)
}

fn row_points<T>(rows: &[ByRow<T>], value: impl Fn(&T) -> f64) -> Vec<(f64, f64)> {
    rows.iter().map(|r| (value(&r.report), (r.top + r.bottom) / 2.0)).collect()
}

/// Segmentation by image row; the plot lies as the picture does.
pub fn segmentation_by_row(segmentation: &Segmentation) -> Result<String, PlotError> {
    let rows = &segmentation.by_row;
    draw("Segmentation by image row", (1, PANEL_PX), |areas| {
        let x = Axis::new("share, 0 to 1", (0.0, 1.0), &plain);
        lines(
            &areas[0],
            "Segmentation by image row",
            &x,
            &row_axis(),
            &[
                Line { name: "pixel accuracy", colour: ORANGE, points: row_points(rows, |r| r.pixel_accuracy) },
                Line { name: "mIoU", colour: BLUE, points: row_points(rows, |r| r.miou) },
            ],
            false,
        )
    })
}

/// Depth errors by image row; the plots lie as the picture does.
pub fn depth_by_row(depth: &Depth) -> Result<String, PlotError> {
    let rows = &depth.by_row;
    draw("AbsRel and bias of depth by image row", (2, PANEL_PX), |areas| {
        let plain_errors = row_points(rows, |r| r.plain.abs_rel);
        let scaled = row_points(rows, |r| r.median_scaled.abs_rel);
        let last = end(plain_errors.iter().chain(&scaled).map(|p| p.0));
        lines(
            &areas[0],
            "AbsRel by image row",
            &Axis::new("AbsRel", (0.0, last), &plain),
            &row_axis(),
            &[
                Line { name: "as predicted", colour: BLUE, points: plain_errors },
                Line { name: "median-scaled", colour: ORANGE, points: scaled },
            ],
            false,
        )?;
        let bias = row_points(rows, |r| r.plain.log_bias);
        let ends = ends_around_zero(bias.iter().map(|p| p.0));
        lines(
            &areas[1],
            "Bias by image row: left of 0 is too near",
            &Axis::new("mean of ln(prediction / truth)", ends, &plain),
            &row_axis(),
            &[Line { name: "as predicted", colour: BLUE, points: bias }],
            false,
        )
    })
}

/// Distributions of true and predicted depth.
pub fn distributions(depth: &Depth) -> Result<String, PlotError> {
    let all = [
        ("all judged pixels", Some(&depth.distribution)),
        ("foreground", depth.distribution_foreground.as_ref()),
        ("background", depth.distribution_background.as_ref()),
    ];
    let panels: Vec<_> = all.into_iter().filter_map(|(name, d)| Some((name, d?))).collect();
    draw("Distributions of true and predicted depth", (panels.len(), (400, 320)), |areas| {
        for (area, (name, d)) in areas.iter().zip(&panels) {
            let (truth, predicted) = (outline(d, &d.truth), outline(d, &d.predicted));
            let last = end(truth.iter().chain(&predicted).map(|p| p.1));
            let x = Axis::log_metres("depth in m", d.edges_m[0], d.edges_m[BINS]);
            let y = Axis::new("share of the pixels in a bin", (0.0, last), &|v| format!("{:.1}%", 100.0 * v));
            let title = format!("Distribution of depth: {name}");
            let both = [
                Line { name: "truth", colour: GREEN, points: truth },
                Line { name: "prediction", colour: ORANGE, points: predicted },
            ];
            lines(area, &title, &x, &y, &both, false)?;
        }
        Ok(())
    })
}

/// The outline of a histogram: its bins as steps, as shares of all pixels.
fn outline(d: &Distribution, counts: &[u64]) -> Vec<(f64, f64)> {
    let all = counts.iter().sum::<u64>().max(1) as f64;
    let bins = counts[1..=BINS].iter().zip(d.edges_m.windows(2));
    bins.flat_map(|(&count, edge)| [edge[0], edge[1]].map(|e| (e.ln(), count as f64 / all))).collect()
}

/// Truth against prediction.
pub fn joint(depth: &Depth) -> Result<String, PlotError> {
    let d = &depth.distribution;
    let most = d.joint[1..=BINS].iter().flat_map(|row| &row[1..=BINS]).copied().max().unwrap_or(0).max(1) as f64;
    let title = "Prediction against truth: pixels, by the logarithm of their number";
    draw(title, (1, (520, 500)), |areas| {
        let axis = |name| Axis::log_metres(name, d.edges_m[0], d.edges_m[BINS]);
        let mut chart = axes(&areas[0], title, &axis("true depth in m"), &axis("predicted depth in m"))?;
        for t in 0..BINS {
            for p in 0..BINS {
                let count = d.joint[t + 1][p + 1];
                if count > 0 {
                    let share = (1.0 + count as f64).ln() / (1.0 + most).ln();
                    let corners =
                        [(d.edges_m[t].ln(), d.edges_m[p].ln()), (d.edges_m[t + 1].ln(), d.edges_m[p + 1].ln())];
                    chart.draw_series([Rectangle::new(corners, rgb(share_colour(share as f32)).filled())])?;
                }
            }
        }
        let (near, far) = (d.edges_m[0].ln(), d.edges_m[BINS].ln());
        chart.draw_series(LineSeries::new([(near, near), (far, far)], ORANGE.stroke_width(1)))?;
        legend(&areas[0], &[("prediction = truth", ORANGE)])
    })
}

/// What happens to poles from their top to their foot.
pub fn leak(leak: &LeakReport) -> Result<String, PlotError> {
    let points = |value: &dyn Fn(&ZoneReport) -> Option<f64>| -> Vec<(f64, f64)> {
        let n = leak.deciles.len() as f64;
        let at = |(i, zone)| ((i as f64 + 0.5) / n, value(zone).unwrap_or(f64::NAN));
        leak.deciles.iter().enumerate().map(at).collect()
    };
    let height = || Axis::new("height of the pole, from its top to its foot", (0.0, 1.0), &percent);
    let panels = if leak.poles_with_depth > 0 { 2 } else { 1 };
    draw("Labels and depth of poles by height", (panels, PANEL_PX), |areas| {
        let y = Axis::new("share of the pole's pixels", (0.0, 1.0), &percent);
        let labels = [
            Line { name: "labelled as pole", colour: BLUE, points: points(&|z| z.as_pole) },
            Line { name: "labelled as ground", colour: ORANGE, points: points(&|z| z.as_ground) },
        ];
        lines(&areas[0], "Labels of poles", &height(), &y, &labels, true)?;
        if let Some(area) = areas.get(1) {
            let error = points(&|z| z.log_error);
            let y = Axis::new("mean of ln(prediction / truth)", ends_around_zero(error.iter().map(|p| p.1)), &plain);
            let title = "Depth of poles: below 0 is too near, above 0 too far";
            lines(area, title, &height(), &y, &[Line { name: "depth error", colour: BLUE, points: error }], true)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_ends_are_whole_steps() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(step(1.0), 0.2) && near(step(80.0), 10.0) && near(step(0.3), 0.05));
        assert!(near(end([0.26, 0.31, f64::NAN].into_iter()), 0.35));
        assert!(near(end([].into_iter()), 1.0));
        let axis = Axis::new("", (1.0, 0.0), &percent);
        assert_eq!(axis.ticks.iter().map(percent).collect::<Vec<_>>(), ["0%", "20%", "40%", "60%", "80%", "100%"]);
        assert_eq!((plain(&0.25), plain(&10.0), plain(&0.0)), ("0.25".into(), "10".into(), "0".into()));
        assert_eq!(
            Axis::log_metres("", 1.0, 80.0).ticks.iter().map(exp_metres).collect::<Vec<_>>().join(" "),
            "1 2 5 10 20 50"
        );
    }

    #[test]
    fn a_line_breaks_where_there_is_nothing() {
        let line = Line { name: "a", colour: BLUE, points: vec![(0.0, 0.1), (0.5, f64::NAN), (0.9, 0.3), (1.0, 0.4)] };
        let axis = || Axis::new("", (0.0, 1.0), &plain);
        let svg =
            draw("a & b", (1, (300, 300)), |a| lines(&a[0], "<b>", &axis(), &axis(), &[line], false)).expect("drawn");
        assert_eq!(svg.matches("#0072B2").count(), 3, "a dot, a line, the legend: {svg}");
        assert!(svg.starts_with("<svg role=\"img\" ") && svg.contains(">\n<title>a &amp; b</title>"), "{svg}");
        assert!(!svg.contains("NaN") && svg.contains("&lt;b&gt;"), "{svg}");
    }
}
