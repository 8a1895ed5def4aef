//! Compiled engines on disk.
//!
//! One folder (`SEMANTIC_DEPTH_CACHE`, else `$XDG_CACHE_HOME/semantic_depth/tensorrt`, else
//! `~/.cache/semantic_depth/tensorrt`) with, for each entry, `NAME.ts`, what libtorch loads, and `NAME.json`, what it was
//! made for and its sha256. `NAME` begins the sha256 of the key, but it is the key in the JSON that is believed, field by
//! field. An entry appears by renaming, the JSON last; without a JSON that fits, the `.ts` beside it is nothing. Who builds
//! holds a lock on `NAME.lock`, so a second process waits for the first one's engine instead of building its own.

use super::version::{ComputeCapability, TensorRtVersion};
use crate::data::disk::{self, DataError};
use crate::export;
use rustix::fs::{flock, FlockOperation};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Names the cache's folder.
pub const FOLDER: &str = "SEMANTIC_DEPTH_CACHE";

/// Where what is compiled for this machine lies: the folder that [`FOLDER`] names, else this one among the user's own caches.
///
/// # Errors
/// No variable names one.
pub fn folder(name: &str) -> Result<PathBuf, CacheError> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let own = |caches: PathBuf| caches.join("semantic_depth").join(name);
    variable(FOLDER)
        .or_else(|| variable("XDG_CACHE_HOME").map(own))
        .or_else(|| variable("HOME").map(|home| own(home.join(".cache"))))
        .ok_or(CacheError::NoPlace)
}

/// Everything that an engine depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Of the TorchScript file, from the manifest.
    pub model_sha256: String,
    /// The GPU's name: engines are tuned to a model, not only to its compute capability.
    pub gpu: String,
    /// Of the GPU.
    pub compute_capability: ComputeCapability,
    /// Of the library that runs it.
    pub tensorrt: TensorRtVersion,
    /// Of the library that runs it.
    pub torch_tensorrt: String,
    /// `linux_x86_64`, ...
    pub platform: String,
    /// `fp32` or `fp16`.
    pub precision: String,
    /// Of one input: channels, height, width.
    pub shape: [usize; 3],
    /// Smallest, preferred and largest batch.
    pub batch: [usize; 3],
}

impl Key {
    /// The name of the entry's files, without an ending.
    pub fn name(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{:x}", Sha256::digest(json))[..16].into()
    }

    /// Whether an engine that was made for this key takes every batch of that range ([`Key::batch`]).
    pub fn takes(&self, [least, _, most]: [usize; 3]) -> bool {
        let [min, _, max] = self.batch;
        min <= least && max >= most
    }

    /// Whether an engine that was made for this key does for the wanted one: it takes its batches, and all else is the same.
    fn does_for(&self, wanted: &Self) -> bool {
        self.takes(wanted.batch) && Self { batch: wanted.batch, ..self.clone() } == *wanted
    }

    /// Each field that differs, as `field: theirs, here ours`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let fields = |key: &Self| match serde_json::to_value(key) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let theirs = fields(other);
        fields(self)
            .into_iter()
            .filter(|(name, ours)| theirs.get(name) != Some(ours))
            .map(|(name, ours)| {
                format!("{name}: {}, here {ours}", theirs.get(&name).unwrap_or(&serde_json::Value::Null))
            })
            .collect()
    }
}

/// What lies beside an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What it was made for.
    pub key: Key,
    /// Of the `.ts` file.
    pub sha256: String,
    /// How it was made: `torchtrtc ...`, or the file that was imported.
    pub origin: String,
    /// When, ISO 8601, UTC.
    pub created: String,
}

/// The cache's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Neither of the variables that name a place is set.
    #[error("no place for what is compiled: set {FOLDER}, XDG_CACHE_HOME or HOME")]
    NoPlace,
    /// The file system.
    #[error("engine cache: {0}")]
    Disk(#[from] DataError),
    /// A file of it.
    #[error("engine cache {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CacheError + '_ {
    move |source| CacheError::Io { path: path.into(), source }
}

/// What a look into the cache came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// This file is whole and was made for the key.
    Hit(PathBuf),
    /// Why there is none, for the log.
    Miss(String),
}

/// The cache.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// Held while an entry is built; released when dropped, and by the kernel when the process ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// The same lock for another process: it is released when the last one that has it is gone.
    ///
    /// # Errors
    /// No more files can be opened.
    pub fn shared(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }
}

impl Cache {
    /// In this folder, which is made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(folder: PathBuf) -> Result<Self, CacheError> {
        fs::create_dir_all(&folder).map_err(io(&folder))?;
        Ok(Self { folder })
    }

    /// In this folder, to be looked into only: it need not be there.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder that the environment names; it need not be there.
    ///
    /// # Errors
    /// No variable names one.
    pub fn default_folder() -> Result<PathBuf, CacheError> {
        folder("tensorrt")
    }

    fn file(&self, key: &Key, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", key.name()))
    }

    /// A place for the unfinished engine, in the cache's folder so that it can be renamed. Only who holds the lock uses it.
    pub fn unfinished(&self, key: &Key) -> PathBuf {
        self.file(key, "partial.ts")
    }

    /// Waits until no other process builds this entry.
    ///
    /// # Errors
    /// The file system.
    pub fn lock(&self, key: &Key) -> Result<Lock, CacheError> {
        let path = self.file(key, "lock");
        // Never removed: a process that waits for a removed file would hold a lock that the next one does not see.
        let file = File::options().create(true).write(true).truncate(false).open(&path).map_err(io(&path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            log::info!("another process builds this engine; waiting for it ({})", path.display());
            loop {
                match flock(&file, FlockOperation::LockExclusive) {
                    Err(rustix::io::Errno::INTR) => {}
                    other => break other.map_err(|e| io(&path)(e.into()))?,
                }
            }
        }
        Ok(Lock { file })
    }

    /// Looks for a whole engine that was made for this key, or for one that differs from it in larger batches only: then for
    /// the one of the smallest.
    pub fn look_up(&self, key: &Key) -> Lookup {
        let readable = self.entries().into_iter().filter_map(|(json, entry)| Some((json, entry.ok()?)));
        let mut fitting: Vec<_> = readable.filter(|(_, entry)| entry.key.does_for(key)).collect();
        fitting.sort_by_key(|(_, entry)| (entry.key.batch[2], entry.key != *key));
        let mut damaged = None;
        for (json, entry) in fitting {
            let engine = json.with_extension("ts");
            let why = match export::sha256(&engine) {
                Ok(found) if found == entry.sha256 => return Lookup::Hit(engine),
                Ok(_) => format!("{} is not the file that was put there (its sha256 differs)", engine.display()),
                Err(error) => error.to_string(),
            };
            damaged.get_or_insert(why);
        }
        Lookup::Miss(damaged.unwrap_or_else(|| self.reason(key)))
    }

    /// Why no entry fits the key.
    fn reason(&self, key: &Key) -> String {
        let json = self.file(key, "json");
        match read_entry(&json) {
            Ok(entry) => {
                let differences = key.differences(&entry.key);
                format!("{} was made for another case: {}", json.display(), differences.join("; "))
            }
            Err(why) if json.exists() => why,
            Err(_) => self.nearest(key),
        }
    }

    /// Says how the key differs from the entry that is most like it.
    fn nearest(&self, key: &Key) -> String {
        let others = self.entries().into_iter().filter_map(|(_, entry)| entry.ok());
        match others.map(|entry| key.differences(&entry.key)).min_by_key(Vec::len) {
            Some(differences) => {
                format!("no engine for this case; the nearest one differs in {}", differences.join("; "))
            }
            None => "no engine yet".into(),
        }
    }

    /// Every entry: its JSON file, and what that says or why it cannot be read.
    pub fn entries(&self) -> Vec<(PathBuf, Result<Entry, String>)> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|file| file.path());
        let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), read_entry(&path))).collect()
    }

    /// Puts a whole engine, which lies at [`Cache::unfinished`], into its place. What was there before is replaced.
    ///
    /// # Errors
    /// The file system.
    pub fn put(&self, key: &Key, origin: String, _lock: &Lock) -> Result<PathBuf, CacheError> {
        let (unfinished, engine, json) = (self.unfinished(key), self.file(key, "ts"), self.file(key, "json"));
        let sha256 = export::sha256(&unfinished).map_err(|e| io(&unfinished)(std::io::Error::other(e.to_string())))?;
        File::open(&unfinished).and_then(|f| f.sync_all()).map_err(io(&unfinished))?;
        let created = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string();
        let entry = Entry { key: key.clone(), sha256, origin, created };
        let text = serde_json::to_vec_pretty(&entry).map_err(|e| io(&json)(e.into()))?;
        fs::rename(&unfinished, &engine).map_err(io(&engine))?;
        disk::write_atomically(&json, |file| file.write_all(&text))?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(io(&self.folder))?;
        Ok(engine)
    }
}

fn read_entry(json: &Path) -> Result<Entry, String> {
    let text = fs::read_to_string(json).map_err(|e| format!("{}: {e}", json.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", json.display()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::tensorrt) fn key() -> Key {
        Key {
            model_sha256: "ab".repeat(32),
            gpu: "Orin".into(),
            compute_capability: ComputeCapability { major: 8, minor: 7 },
            tensorrt: TensorRtVersion { major: 10, minor: 15, patch: 1, build: Some(29) },
            torch_tensorrt: "2.11.0".into(),
            platform: "linux_aarch64".into(),
            precision: "fp16".into(),
            shape: [3, 256, 512],
            batch: [1, 1, 4],
        }
    }

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().expect("temporary");
        let cache = Cache::open(folder.path().join("deep/tensorrt")).expect("temporary");
        (folder, cache)
    }

    fn put(cache: &Cache, key: &Key, bytes: &[u8]) -> PathBuf {
        let lock = cache.lock(key).expect("free");
        fs::write(cache.unfinished(key), bytes).expect("temporary");
        cache.put(key, "test".into(), &lock).expect("temporary")
    }

    fn why(cache: &Cache, key: &Key) -> String {
        match cache.look_up(key) {
            Lookup::Miss(why) => why,
            Lookup::Hit(path) => panic!("{} fits", path.display()),
        }
    }

    #[test]
    fn an_engine_is_found_again_for_its_key_only() {
        let (_folder, cache) = cache();
        assert_eq!(why(&cache, &key()), "no engine yet");
        let path = put(&cache, &key(), b"engine");
        assert_eq!(cache.look_up(&key()), Lookup::Hit(path.clone()));
        assert_eq!(fs::read(&path).expect("there"), b"engine");
        for (other, words) in [
            (Key { model_sha256: "cd".repeat(32), ..key() }, "model_sha256: \"abab"),
            (Key { gpu: "Thor".into(), ..key() }, "gpu: \"Orin\", here \"Thor\""),
            (Key { compute_capability: ComputeCapability { major: 9, minor: 0 }, ..key() }, "compute_capability"),
            (Key { tensorrt: TensorRtVersion { build: Some(30), ..key().tensorrt }, ..key() }, "tensorrt: {"),
            (Key { torch_tensorrt: "2.11.1".into(), ..key() }, "torch_tensorrt: \"2.11.0\", here \"2.11.1\""),
            (Key { platform: "linux_x86_64".into(), ..key() }, "platform"),
            (Key { precision: "fp32".into(), ..key() }, "precision: \"fp16\", here \"fp32\""),
            (Key { shape: [3, 400, 1024], ..key() }, "shape: [3,256,512], here [3,400,1024]"),
            (Key { batch: [1, 1, 5], ..key() }, "batch: [1,1,4], here [1,1,5]"),
        ] {
            let message = why(&cache, &other);
            assert!(message.contains("the nearest one differs in") && message.contains(words), "{message}");
            // Even under the same name: the key in the file is what counts.
            fs::copy(cache.file(&key(), "json"), cache.file(&other, "json")).expect("temporary");
            fs::copy(cache.file(&key(), "ts"), cache.file(&other, "ts")).expect("temporary");
            let message = why(&cache, &other);
            assert!(message.contains("was made for another case") && message.contains(words), "{message}");
            fs::remove_file(cache.file(&other, "json")).expect("temporary");
        }
    }

    #[test]
    fn an_engine_does_for_smaller_batches_too() {
        let (_folder, cache) = cache();
        let up_to = |most: usize| Key { batch: [1, most, most], ..key() };
        let four = put(&cache, &up_to(4), b"four");
        for most in [1, 3, 4] {
            assert_eq!(cache.look_up(&up_to(most)), Lookup::Hit(four.clone()), "{most}");
        }
        assert!(why(&cache, &up_to(5)).contains("batch: [1,4,4], here [1,5,5]"));
        assert!(matches!(cache.look_up(&Key { precision: "fp32".into(), ..up_to(3) }), Lookup::Miss(_)));
        // One that takes no single frames does not do for who has some.
        put(&cache, &Key { batch: [2, 8, 8], ..key() }, b"two to eight");
        assert!(matches!(cache.look_up(&up_to(5)), Lookup::Miss(_)));
        // The smallest comes first, and what is damaged keeps no other from being taken.
        let sixteen = put(&cache, &up_to(16), b"sixteen");
        let two = put(&cache, &up_to(2), b"two");
        assert_eq!(cache.look_up(&up_to(1)), Lookup::Hit(two.clone()));
        assert_eq!(cache.look_up(&up_to(5)), Lookup::Hit(sixteen));
        fs::write(&two, b"damaged").expect("temporary");
        assert_eq!(cache.look_up(&up_to(1)), Lookup::Hit(four.clone()));
        // Among engines of the same batches it is the one that is tuned as wanted.
        let tuned_for_one = put(&cache, &key(), b"tuned for one");
        assert_eq!(cache.look_up(&key()), Lookup::Hit(tuned_for_one));
        assert_eq!(cache.look_up(&up_to(4)), Lookup::Hit(four));
    }

    #[test]
    fn half_an_entry_is_none() {
        let (_folder, cache) = cache();
        let engine = put(&cache, &key(), b"engine");
        let json = cache.file(&key(), "json");
        let text = fs::read_to_string(&json).expect("there");

        fs::write(&engine, b"engin").expect("temporary");
        assert!(why(&cache, &key()).contains("sha256 differs"));
        fs::remove_file(&engine).expect("temporary");
        assert!(why(&cache, &key()).contains(&engine.display().to_string()));
        fs::write(&engine, b"engine").expect("temporary");
        assert!(matches!(cache.look_up(&key()), Lookup::Hit(_)));

        for wrong in [&text[..text.len() / 2], "", "{}", &text.replace("sha256", "sha1")] {
            fs::write(&json, wrong).expect("temporary");
            let message = why(&cache, &key());
            assert!(message.contains(&json.display().to_string()), "{message}");
        }
        fs::remove_file(&json).expect("temporary");
        assert_eq!(why(&cache, &key()), "no engine yet");
        // And a new one takes its place.
        let path = put(&cache, &key(), b"newer");
        assert_eq!(cache.look_up(&key()), Lookup::Hit(path));
        assert!(!cache.unfinished(&key()).exists());
    }

    #[test]
    fn who_comes_second_waits_and_finds_the_engine() {
        let (_folder, cache) = cache();
        let lock = cache.lock(&key()).expect("free");
        let waiting = {
            let cache = cache.clone();
            std::thread::Builder::new().name("second".into()).spawn(move || {
                let _lock = cache.lock(&key()).expect("after the first");
                cache.look_up(&key())
            })
        };
        // A lock on a file of another open is another process's as far as flock is concerned.
        let other = File::options().write(true).open(cache.file(&key(), "lock")).expect("there");
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
        fs::write(cache.unfinished(&key()), b"engine").expect("temporary");
        let path = cache.put(&key(), "test".into(), &lock).expect("temporary");
        drop(lock);
        let found = waiting.expect("spawned").join().expect("no panic");
        assert_eq!(found, Lookup::Hit(path));
        // Another key's lock is another one.
        let _one = cache.lock(&key()).expect("free");
        let _other = cache.lock(&Key { gpu: "Thor".into(), ..key() }).expect("free");
    }
}
