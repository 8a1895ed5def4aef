//! Message definitions and type hashes, read from the `share` folders of the ROS 2 prefixes (`AMENT_PREFIX_PATH`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Why a message type's definition cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// Not of the form `package/msg/Name`.
    #[error("`{0}` is not a message type; expected `package/msg/Name`")]
    Name(String),
    /// No prefix has the file.
    #[error(
        "{file} is in no folder of AMENT_PREFIX_PATH ({searched}); source the workspace that has package {package}"
    )]
    Missing {
        /// Relative to a prefix.
        file: PathBuf,
        /// Package that owns it.
        package: String,
        /// The prefixes.
        searched: String,
    },
    /// A file that is there cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The type description has no hash of the type itself.
    #[error("{path} has no RIHS01 hash of {type_name}")]
    Hash {
        /// The file.
        path: PathBuf,
        /// The type.
        type_name: String,
    },
}

/// One message type, ready for a bag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// `package/msg/Name`.
    pub type_name: String,
    /// The `.msg` text followed by those of every type it needs, in the `ros2msg` form of MCAP.
    pub definition: String,
    /// `RIHS01_...`.
    pub hash: String,
}

/// The prefixes of `AMENT_PREFIX_PATH`.
#[derive(Debug, Clone)]
pub struct Prefixes(Vec<PathBuf>);

impl Prefixes {
    /// From the environment; empty where no ROS 2 is sourced, which [`Prefixes::load`] then says.
    pub fn from_env() -> Self {
        let path = std::env::var_os("AMENT_PREFIX_PATH").unwrap_or_default();
        Self(std::env::split_paths(&path).filter(|p| !p.as_os_str().is_empty()).collect())
    }

    fn read(&self, package: &str, name: &str, extension: &str) -> Result<(PathBuf, String), InterfaceError> {
        let file = Path::new("share").join(package).join("msg").join(format!("{name}.{extension}"));
        let Some(path) = self.0.iter().map(|p| p.join(&file)).find(|p| p.is_file()) else {
            let searched = self.0.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(":");
            return Err(InterfaceError::Missing { file, package: package.into(), searched });
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok((path, text)),
            Err(source) => Err(InterfaceError::Read { path, source }),
        }
    }

    /// The definition and hash of `package/msg/Name`.
    pub fn load(&self, type_name: &str) -> Result<Interface, InterfaceError> {
        let (package, name) = split(type_name)?;
        let mut definition = self.read(package, name, "msg")?.1;
        let mut seen = BTreeSet::from([format!("{package}/{name}")]);
        let mut queue: std::collections::VecDeque<_> = needed(package, &definition).into();
        while let Some((package, name)) = queue.pop_front() {
            if !seen.insert(format!("{package}/{name}")) {
                continue;
            }
            let text = self.read(&package, &name, "msg")?.1;
            queue.extend(needed(&package, &text));
            definition.push_str(&format!("\n{}\nMSG: {package}/{name}\n{text}", "=".repeat(80)));
        }
        let (path, description) = self.read(package, name, "json")?;
        let hash = serde_json::from_str::<serde_json::Value>(&description)
            .ok()
            .and_then(|json| {
                let hashes = json.get("type_hashes")?.as_array()?;
                let own = hashes.iter().find(|h| h.get("type_name").and_then(|n| n.as_str()) == Some(type_name))?;
                own.get("hash_string")?.as_str().map(str::to_owned)
            })
            .filter(|hash| hash.starts_with("RIHS01_"))
            .ok_or(InterfaceError::Hash { path, type_name: type_name.into() })?;
        Ok(Interface { type_name: type_name.into(), definition, hash })
    }
}

fn split(type_name: &str) -> Result<(&str, &str), InterfaceError> {
    match type_name.split('/').collect::<Vec<_>>()[..] {
        [package, "msg", name] if !package.is_empty() && !name.is_empty() => Ok((package, name)),
        _ => Err(InterfaceError::Name(type_name.into())),
    }
}

/// `(package, name)` of the types that the fields of a `.msg` text have, without the primitive ones.
fn needed(package: &str, text: &str) -> Vec<(String, String)> {
    let primitive = |t: &str| {
        matches!(t, "bool" | "byte" | "char" | "float32" | "float64" | "string" | "wstring")
            || t.strip_prefix('u').unwrap_or(t).strip_prefix("int").is_some_and(|bits| bits.parse::<u8>().is_ok())
    };
    text.lines()
        .filter_map(|line| line.split('#').next()?.split_whitespace().next())
        .map(|field| field.split(['[', '<']).next().unwrap_or(field))
        .filter(|field| !primitive(field))
        .map(|field| match field.split('/').collect::<Vec<_>>()[..] {
            [package, name] | [package, "msg", name] => (package.to_owned(), name.to_owned()),
            _ => (package.to_owned(), field.to_owned()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_types_are_found() {
        let text =
            "# a comment with geometry_msgs/Pose\nstd_msgs/Header header # the header\nuint8 KIND=3\nstring<=10 s\n\
                    KeyValue[] values\ngeometry_msgs/msg/Point32[<=4] p\nint64[3] n\nfloat64 x 1.0\n";
        let expected = [("std_msgs", "Header"), ("diagnostic_msgs", "KeyValue"), ("geometry_msgs", "Point32")];
        let expected: Vec<_> = expected.iter().map(|(p, n)| ((*p).to_owned(), (*n).to_owned())).collect();
        assert_eq!(needed("diagnostic_msgs", text), expected);
    }

    #[test]
    fn definitions_are_complete_and_hashed() {
        let image = Prefixes::from_env().load("sensor_msgs/msg/Image").expect("a sourced ROS 2 has it");
        let rule = "=".repeat(80);
        let parts: Vec<_> = image.definition.split(&format!("{rule}\n")).collect();
        assert_eq!(parts.len(), 3, "Image, Header, Time");
        assert!(parts[1].starts_with("MSG: std_msgs/Header\n"));
        assert!(parts[2].starts_with("MSG: builtin_interfaces/Time\n"));
        // The hash that every Jazzy installation has for this type.
        assert!(image.hash.starts_with("RIHS01_") && image.hash.len() == 7 + 64, "{}", image.hash);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Prefixes(vec!["/nowhere".into()]).load("a_msgs/msg/B").expect_err("not there");
        let text = error.to_string();
        assert!(text.contains("share/a_msgs/msg/B.msg") && text.contains("/nowhere"), "{text}");
        assert!(matches!(Prefixes(vec![]).load("a_msgs/B"), Err(InterfaceError::Name(_))));
    }
}
