//! `semantic_depth interface`: the node's parameters, topics, services and diagnostics, from the code's own tables.

use crate::interface::documents::{self, Section};
use crate::interface::schema::schema;
use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use std::path::{Path, PathBuf};

/// Print the node's parameters, topics, services and diagnostics.
#[derive(Debug, Parser)]
pub struct Args {
    /// What to print.
    #[arg(long, value_enum, default_value = "markdown")]
    format: Format,
    /// Only this table (markdown and json).
    #[arg(long, value_enum)]
    section: Option<Section>,
    /// Instead of printing, write README.md's tables and the files in config/ of this source tree anew.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["format", "section"])]
    update: Option<PathBuf>,
}

/// Forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables, as in README.md.
    Markdown,
    /// JSON Schema of a parameter file.
    Schema,
    /// A parameter file with every default.
    Params,
    /// Everything, for programs.
    Json,
}

/// The file of the schema, in the source tree.
pub const SCHEMA_FILE: &str = "config/semantic_depth.schema.json";
/// The default parameter file, in the source tree.
pub const PARAMS_FILE: &str = "config/semantic_depth.param.yaml";

/// The text of [`SCHEMA_FILE`].
///
/// # Errors
/// Never in practice: the schema is plain JSON.
pub fn schema_text() -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&schema())? + "\n")
}

/// Runs the verb.
///
/// # Errors
/// A section was asked of a form that has none; a file of the source tree cannot be read or written; standard
/// output cannot be written.
pub fn run(args: Args) -> anyhow::Result<()> {
    if let Some(folder) = args.update {
        return update(&folder);
    }
    let text = match (args.format, args.section) {
        (Format::Markdown, Some(section)) => section.markdown(),
        (Format::Markdown, None) => Section::ALL.map(Section::markdown).join("\n"),
        (Format::Json, Some(section)) => serde_json::to_string_pretty(&section.json())? + "\n",
        (Format::Json, None) => serde_json::to_string_pretty(&documents::json())? + "\n",
        (Format::Schema | Format::Params, Some(_)) => {
            anyhow::bail!("--section goes with --format markdown and json only")
        }
        (Format::Schema, None) => schema_text()?,
        (Format::Params, None) => documents::params_file(),
    };
    super::print(text).context("the text cannot be printed")
}

fn update(folder: &Path) -> anyhow::Result<()> {
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let readme = folder.join("README.md");
    let text = std::fs::read_to_string(&readme).with_context(|| format!("cannot read {}", readme.display()))?;
    write("README.md", documents::update(&text).map_err(anyhow::Error::msg).context("README.md")?)?;
    write(SCHEMA_FILE, schema_text()?)?;
    write(PARAMS_FILE, documents::params_file())
}
