//! `semantic_depth export`

use super::render::parse_size;
use crate::data::street::{CITYSCAPES_FOCAL_PX, CITYSCAPES_WIDTH};
use crate::export::trace::{self, ExportRequest};
use crate::model::NetworkConfig;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Arguments of `semantic_depth export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// safetensors, or a PyTorch state dict (.pth).
    #[arg(long)]
    weights: PathBuf,
    /// Folder of the model: model.yaml, network.ts, weights.safetensors.
    #[arg(long)]
    out: PathBuf,
    /// Width and height of the network's input in pixels.
    #[arg(long, default_value = "512x256", value_parser = parse_size)]
    size: (usize, usize),
    /// Focal length that the depth was learned at, in pixels of an image as wide as the input; by default Cityscapes'
    /// camera at this width.
    #[arg(long)]
    focal_length: Option<f32>,
    /// The weights are of the network without its 1/4 stage.
    #[arg(long)]
    extra_light: bool,
    /// Short name, shown in diagnostics.
    #[arg(long, default_value = "semantic_depth")]
    name: String,
    /// What it was trained on and how, for the manifest.
    #[arg(long, default_value = "not stated")]
    training: String,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    let by_default = CITYSCAPES_FOCAL_PX * args.size.0 as f64 / CITYSCAPES_WIDTH;
    let words: Vec<String> = std::env::args().skip(1).map(quoted).collect();
    let request = ExportRequest {
        weights: args.weights,
        network: NetworkConfig { extra_light: args.extra_light, ..NetworkConfig::default() },
        size: args.size,
        focal_length_px: args.focal_length.unwrap_or(by_default as f32),
        name: args.name,
        training: args.training,
        command: format!("semantic_depth {}", words.join(" ")),
        created: now_utc(),
    };
    let (artifact, difference) = trace::export(&request, &args.out)?;
    println!(
        "{} written: input {}x{}, largest difference to the original network {difference:.1e}",
        artifact.dir.display(),
        artifact.manifest.input.width,
        artifact.manifest.input.height
    );
    Ok(())
}

/// A word as a shell takes it.
fn quoted(word: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The date and time, UTC, ISO 8601, to the second.
fn now_utc() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (y, m, d) = civil(days as i64);
    format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Gregorian date of a day since 1970-01-01 (the usual era-of-400-years reckoning, with years from March).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::civil;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_454), (2026, 1, 1));
        assert_eq!(civil(20_780), (2026, 11, 23));
    }
}
