use super::super::check::{check, Here, Mismatch, PLATFORM, TORCH_TENSORRT_ABI};
use super::*;
use std::io::{Cursor, Write as _};

/// The files of tests/tensorrt, which libtorch wrote.
const ONE: &[u8] = include_bytes!("../../../tests/tensorrt/one_engine.ts");
const TWO: &[u8] = include_bytes!("../../../tests/tensorrt/two_engines.ts");
const FROZEN: &[u8] = include_bytes!("../../../tests/tensorrt/frozen.ts");
const ABI_7: &[u8] = include_bytes!("../../../tests/tensorrt/abi7.ts");

pub(in crate::tensorrt) fn base64(plan: &[u8]) -> String {
    Base64::encode_string(plan)
}

/// A plan's header with this version, and 64 bytes.
pub(in crate::tensorrt) fn plan(version: [u8; 4]) -> Vec<u8> {
    let mut plan = b"ftrt".to_vec();
    plan.extend([0; 20]);
    plan.extend(version);
    plan.extend(0..64);
    plan
}

/// The strings of the engine in `one_engine.ts`.
pub(in crate::tensorrt) fn strings() -> Vec<String> {
    let plan = base64(&plan([10, 15, 1, 29]));
    let all = ["8", "forward_engine", "0%8%7%0%Orin", &plan, "input_0", "output_0", "0", "bWV0YQ==", "linux_x86_64"];
    all.into_iter().chain(["0", "0"]).map(String::from).collect()
}

fn with(index: usize, value: &str) -> Vec<String> {
    let mut strings = strings();
    strings[index] = value.into();
    strings
}

/// Writes pickles as libtorch's pickler does: every new string, class and object goes into the memo.
#[derive(Default)]
struct Pickler {
    bytes: Vec<u8>,
    memo: HashMap<String, u8>,
    next: u8,
}

impl Pickler {
    fn put(&mut self) {
        self.bytes.extend([b'q', self.next]);
        self.next += 1;
    }

    fn memoized(&mut self, key: String, value: &[u8]) {
        if let Some(&n) = self.memo.get(&key) {
            self.bytes.extend([b'h', n]);
            return;
        }
        self.bytes.extend(value);
        self.memo.insert(key, self.next);
        self.put();
    }

    fn text(&mut self, text: &str) {
        let mut value = vec![b'X'];
        value.extend((text.len() as u32).to_le_bytes());
        value.extend(text.as_bytes());
        self.memoized(format!("text {text}"), &value);
    }

    fn global(&mut self, module: &str, name: &str) {
        let value = format!("c{module}\n{name}\n");
        self.memoized(value.clone(), value.as_bytes());
    }

    fn engine(&mut self, strings: &[String]) {
        self.global("__torch__.torch.classes.tensorrt", "Engine");
        self.bytes.extend(b")\x81");
        self.global("torch.jit._pickle", "restore_type_tag");
        self.bytes.extend(b"](");
        strings.iter().for_each(|s| self.text(s));
        self.bytes.extend(b"e");
        self.text("List[str]");
        self.bytes.extend(b"\x86R");
        self.put();
        self.bytes.extend(b"b");
        self.put();
    }
}

/// The record of a frozen module with up to three engines.
fn constants(engines: &[Vec<String>]) -> Vec<u8> {
    let mut pickler = Pickler { bytes: b"\x80\x02".to_vec(), ..Pickler::default() };
    engines.iter().for_each(|e| pickler.engine(e));
    pickler.bytes.push([b')', 0x85, 0x86, 0x87][engines.len()]);
    pickler.bytes.push(b'.');
    pickler.bytes
}

/// A record of so many engines, one or more, that share a list of strings.
fn sharing(strings: &[String], engines: usize) -> Vec<u8> {
    let mut pickler = Pickler::default();
    pickler.global("__torch__.torch.classes.tensorrt", "Engine");
    pickler.bytes.extend(b")\x81](");
    strings.iter().for_each(|s| pickler.text(s));
    pickler.bytes.push(b'e');
    let list = pickler.next;
    pickler.put();
    pickler.bytes.push(b'b');
    for _ in 1..engines {
        pickler.bytes.extend([b'h', 0, b')', 0x81, b'h', list, b'b']);
    }
    pickler.bytes.push(b'.');
    pickler.bytes
}

fn zipped(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::FileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in records {
        zip.start_file(format!("network/{name}"), options).expect("in memory");
        zip.write_all(bytes).expect("in memory");
    }
    zip.finish().expect("in memory").into_inner()
}

/// An archive of the real layout (of a frozen module: the smallest) with these engines.
pub(in crate::tensorrt) fn archive(engines: &[Vec<String>]) -> Vec<u8> {
    let data = b"\x80\x02c__torch__\nM\nq\x00)\x81}(ubq\x01.";
    zipped(&[(RECORDS[0], data), (ENGINE_CODE, b""), (RECORDS[1], &constants(engines))])
}

fn read_engines(bytes: &[u8]) -> Result<Vec<Engine>, String> {
    engines_of(Cursor::new(bytes), bytes.len() as u64)
}

fn refusal(engines: &[Vec<String>]) -> String {
    read_engines(&archive(engines)).expect_err("it is wrong")
}

pub(in crate::tensorrt) fn orin() -> Here {
    Here {
        abi: TORCH_TENSORRT_ABI,
        tensorrt: TensorRtVersion { major: 10, minor: 15, patch: 1, build: Some(29) },
        compute_capability: ComputeCapability { major: 8, minor: 7 },
        gpu: "Orin".into(),
        platform: "linux_x86_64".into(),
        bindings: (1, 1),
    }
}

fn checked(engines: &[Vec<String>], here: &Here) -> Result<(), Mismatch> {
    let engines = read_engines(&archive(engines)).expect("well formed");
    check(&Archive { path: "network.ts".into(), engines }, here)
}

#[test]
fn an_archive_of_libtorch_is_read_whole() {
    let engines = read_engines(ONE).expect("libtorch wrote it");
    let expected = Engine {
        record: "data.pkl",
        abi: 8,
        name: "forward_engine".into(),
        device: EngineDevice {
            id: 0,
            compute_capability: ComputeCapability { major: 8, minor: 7 },
            kind: DeviceKind::Gpu,
            name: "Orin".into(),
        },
        plan_bytes: 92,
        tensorrt: TensorRtVersion { major: 10, minor: 15, patch: 1, build: Some(29) },
        inputs: vec!["input_0".into()],
        outputs: vec!["output_0".into()],
        hardware_compatible: false,
        metadata_bytes: 8,
        platform: Some("linux_x86_64".into()),
        needs_output_allocator: Some(false),
        allocates_dynamically: Some(false),
    };
    assert_eq!(engines, [expected]);
}

#[test]
fn strings_that_are_references_to_the_memo_are_followed() {
    // libtorch writes the second engine's strings as references to the first one's, and "0" as one to a tensor's storage.
    let engines = read_engines(TWO).expect("libtorch wrote it");
    assert_eq!(engines.len(), 2);
    assert_eq!(engines[1].name, "forward_engine_1");
    assert_eq!(Engine { name: engines[0].name.clone(), ..engines[1].clone() }, engines[0]);
}

#[test]
fn a_frozen_module_keeps_its_engines_among_the_constants() {
    let engines = read_engines(FROZEN).expect("libtorch wrote it");
    assert_eq!(engines.len(), 2);
    assert!(engines.iter().all(|e| e.record == "constants.pkl"));
}

#[test]
fn an_older_abi_is_read_as_far_as_it_goes_and_refused() {
    let engines = read_engines(ABI_7).expect("libtorch wrote it");
    assert_eq!((engines[0].abi, engines[0].allocates_dynamically), (7, None));
    let error = check(&Archive { path: "old.ts".into(), engines }, &orin()).expect_err("2.11 would crash on it");
    assert!(error.to_string().contains("2.7 to 2.10"), "{error}");
}

#[test]
fn what_these_tests_write_is_what_libtorch_writes() {
    let second = with(1, "forward_engine_1");
    let mut zip = ZipArchive::new(Cursor::new(FROZEN)).expect("libtorch wrote it");
    let mut written = Vec::new();
    zip.by_name("frozen/constants.pkl").expect("there").read_to_end(&mut written).expect("whole");
    assert_eq!(constants(&[strings(), second]), written);
    let engines = read_engines(&archive(&[strings()])).expect("the same layout");
    assert_eq!(engines[0].name, "forward_engine");
}

#[test]
fn a_file_without_engines_is_plain() {
    let empty: &[u8] = b"\x80\x02).";
    let plain = zipped(&[(RECORDS[0], empty), ("code/__torch__.py", b""), (RECORDS[1], empty)]);
    assert_eq!(read_engines(&plain), Ok(vec![]));
    let archive = Archive { path: "network.ts".into(), engines: vec![] };
    assert!(archive.is_plain());
    let error = check(&archive, &orin()).expect_err("no engine to run");
    assert_eq!(error, Mismatch::Plain { path: "network.ts".into() });
}

#[test]
fn an_engine_that_fits_is_accepted() {
    assert_eq!(checked(&[strings()], &orin()), Ok(()));
    // Parts that the compiler left to libtorch: bindings between the engines are their own matter.
    let parts = [with(5, "output_0%output_1"), with(4, "input_0%input_1")];
    assert_eq!(checked(&parts, &orin()), Ok(()));
}

#[test]
fn every_field_that_does_not_fit_is_refused_with_what_to_do() {
    let other_plan = |version| with(3, &base64(&plan(version)));
    let abi_9 = [with(0, "9"), vec!["0".into()]].concat();
    for (engine, words) in [
        (abi_9, "found ABI 9 (Torch-TensorRT 2.12 or 2.13)"),
        (with(0, "6")[..9].to_vec(), "found ABI 6 (Torch-TensorRT 2.5 or 2.6)"),
        (with(0, "77"), "a version that is not known here"),
        (with(2, "0%8%6%0%RTX 3060"), "found one for 8.6 (RTX 3060, not hardware compatible)"),
        (with(2, "0%9%7%0%X"), "found one for 9.7"),
        (with(2, "0%8%7%1%Orin"), "DLA"),
        (other_plan([10, 15, 1, 28]), "TensorRT 10.15.1.29, which is installed here, found one of 10.15.1.28"),
        (other_plan([10, 15, 0, 29]), "10.15.0.29"),
        (other_plan([10, 14, 1, 29]), "10.14.1.29"),
        (other_plan([11, 15, 1, 29]), "11.15.1.29"),
        (with(4, "input_0%input_1"), r#"found inputs ["input_0", "input_1"]"#),
        (with(4, ""), "found inputs []"),
        (with(5, "output_0%output_1"), r#"outputs ["output_0", "output_1"]"#),
        (with(5, ""), "outputs []"),
        (with(8, "linux_aarch64"), "for linux_x86_64, found one for linux_aarch64"),
        (with(8, "unknown"), "found one for unknown"),
    ] {
        let error = checked(&[engine], &orin()).expect_err(words).to_string();
        assert!(error.contains(words), "{error}: expected {words}");
        assert!(error.starts_with("network.ts: expected ") && error.contains("; "), "{error}: says what to do");
        // A wrong engine behind a right one is found as well.
    }
    let error = checked(&[strings(), with(8, "windows_x86_64")], &orin()).expect_err("the second");
    assert!(error.to_string().contains("windows"), "{error}");
}

#[test]
fn hardware_compatible_engines_run_from_ampere_on() {
    let mut engine = with(6, "1");
    engine[2] = "0%8%0%0%A100".into();
    assert_eq!(checked(&[engine.clone()], &orin()), Ok(()));
    let xavier = Here { compute_capability: ComputeCapability { major: 7, minor: 2 }, ..orin() };
    let error = checked(&[engine], &xavier).expect_err("before Ampere");
    assert!(error.to_string().contains("from 8.0 on only"), "{error}");
}

#[test]
fn fields_that_make_no_sense_are_named() {
    for (engine, words) in [
        (with(0, "eight"), "the ABI: expected a whole number"),
        (with(0, "-8"), "the ABI"),
        (with(2, "0%8%7%Orin"), "the device: expected id%major%minor%type%name"),
        (with(2, "0%8%7%2%Orin"), "the device"),
        (with(2, "0%8%x%0%Orin"), "the device"),
        (with(3, ""), "the plan has only 0 characters"),
        (with(3, &base64(b"ftrt then too short")), "the plan has only"),
        (with(3, &base64(&[0; 64])), "expected it to begin with"),
        (with(3, &"!".repeat(64)), "the plan is no base64"),
        (with(3, &format!("{}!", strings()[3])), "the plan is no base64"),
        (with(6, "2"), "the hardware compatibility: expected 0 or 1"),
        (with(9, "yes"), "the output allocator"),
        (with(10, ""), "the allocation strategy"),
        (strings()[..10].to_vec(), "ABI 8 has 11 strings, found 10"),
        (vec![], "expected the ABI as string 0, found 0 strings"),
        ([with(0, "99"), vec!["0".into(); 60]].concat(), "more than 64 values"),
    ] {
        let error = refusal(&[engine]);
        assert!(error.contains(words), "{error}: expected {words}");
    }
}

#[test]
fn records_that_libtorch_does_not_write_are_refused() {
    let data = |record: &[u8]| {
        let bytes = zipped(&[(RECORDS[0], record), (RECORDS[1], b"\x80\x02).")]);
        read_engines(&bytes).expect_err("it is wrong")
    };
    let engine = b"c__torch__.torch.classes.tensorrt\nEngine\n)\x81";
    let then = |rest: &[u8]| [engine.as_slice(), rest].concat();
    for (record, words) in [
        (b"".to_vec(), "ends within a value"),
        (b"\x80\x02X\xff\xff\xff\xffab".to_vec(), "ends within a value"),
        (b"cos\nsystem\n(S'true'\ntR.".to_vec(), "operation 0x53"),
        (b"h\x07.".to_vec(), "memo entry 7"),
        (b"e.".to_vec(), "a mark is missing"),
        (b"(\x86.".to_vec(), "a value is missing"),
        (then(b"."), "its state is missing"),
        (then(b"}b."), "the state of engine 0 is no list"),
        (then(b"](K\x01eb."), "holds more than texts"),
        (then(b"q\x00](ebh\x00](eb."), "engine 0 has a second state"),
        // What libtorch takes for the same class, and creates engines of as well.
        (b"c__torch__\ntorch.classes.tensorrt.Engine\n)\x81.".to_vec(), "its state is missing"),
        (b"c__torch__.torch.classes.tensorrt\nEngine\n](eR.".to_vec(), "without NEWOBJ"),
        (b"c__torch__.torch.classes.tensorrt\nEngine\n](eb.".to_vec(), "without NEWOBJ"),
        (then(b"](eR."), "without NEWOBJ"),
        (vec![b'N'; 2 << 20], "operations"),
        (then(b"0").repeat(2000), "more than 1024 engines"),
    ] {
        let error = data(&record);
        assert!(error.contains(words), "{error}: expected {words}");
    }
}

#[test]
fn archives_that_libtorch_does_not_write_are_refused() {
    let empty: &[u8] = b"\x80\x02).";
    let no_data = zipped(&[(RECORDS[1], empty)]);
    assert!(read_engines(&no_data).expect_err("no data").contains("data.pkl"));
    let hollow = zipped(&[(RECORDS[0], empty), (ENGINE_CODE, b""), (RECORDS[1], empty)]);
    assert!(read_engines(&hollow).expect_err("no engine").contains("names TensorRT engines"));
    assert!(read_engines(&zipped(&[])).expect_err("empty").contains("no files"));
    assert!(read_engines(b"not a zip").expect_err("text").contains("no zip"));
    let missing = inspect(Path::new("/nonexistent/network.ts")).expect_err("not there");
    assert!(matches!(missing, ArchiveError::Io { .. }), "{missing}");
    let folder = inspect(&std::env::temp_dir()).expect_err("a folder");
    assert!(matches!(folder, ArchiveError::Io { .. }), "{folder}");
}

#[test]
fn names_are_compared_as_libtorch_does() {
    let empty: &[u8] = b"\x80\x02).";
    let engine = constants(&[with(0, "7")[..10].to_vec()]);
    for name in ["constants.pkl", "CONSTANTS.PKL", "constants.Pkl"] {
        let alone = zipped(&[(RECORDS[0], empty), (name, &engine)]);
        assert_eq!(read_engines(&alone).expect("libtorch finds it")[0].abi, 7, "{name}");
        for records in [[(name, &*engine), (RECORDS[1], empty)], [(RECORDS[1], empty), (name, &*engine)]] {
            let all = [vec![(RECORDS[0], empty)], records.to_vec()].concat();
            let error = read_engines(&zipped(&all)).expect_err("libtorch may take either");
            assert!(error.contains("is in it twice"), "{name}: {error}");
        }
    }
}

#[test]
fn engines_that_refer_to_one_long_text_are_refused() {
    let empty: &[u8] = b"\x80\x02).";
    let read_sharing = |strings: &[String], engines| {
        read_engines(&zipped(&[(RECORDS[0], empty), (RECORDS[1], &sharing(strings, engines))]))
    };
    assert_eq!(read_sharing(&strings(), 1000).map(|engines| engines.len()), Ok(1000));
    let long = "n%".repeat(4096);
    // Metadata may be long: only its size is kept.
    assert_eq!(read_sharing(&with(7, &long), 1000).map(|engines| engines.len()), Ok(1000));
    for index in [1, 4, 5, 8] {
        let strings = with(index, &long);
        assert_eq!(read_sharing(&strings, 10).map(|engines| engines.len()), Ok(10));
        let error = read_sharing(&strings, 1000).expect_err("8 MB");
        assert!(error.contains("names and settings take more than"), "{index}: {error}");
    }
}

#[test]
fn what_a_zip_claims_at_its_end_is_checked_before_it_is_believed() {
    let refusal = |bytes: &[u8]| read_engines(bytes).expect_err("it is wrong");
    let changed = |bytes: &[u8], at: usize, value: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + value.len()].copy_from_slice(value);
        refusal(&bytes)
    };
    // libtorch's files end with a zip64 record, its locator and an end record; small ones of the zip crate with that.
    let end = ONE.len() - 22;
    let (locator, record) = (end - 20, end - 20 - 56);
    for count in [1000, 70_000, u64::MAX / 8, u64::MAX] {
        let error = changed(ONE, record + 32, &count.to_le_bytes());
        assert!(error.contains(&format!("claims {count} files")), "{error}");
    }
    for at in [0, record as u64 - 1, record as u64 + 1, u64::MAX - 55, u64::MAX] {
        let error = changed(ONE, locator + 8, &at.to_le_bytes());
        assert!(error.contains("its zip64 record is said to be at byte"), "{at}: {error}");
    }
    assert!(changed(ONE, record, b"PK\x01\x02").contains("no zip64 record"));
    for from in [0, u64::MAX] {
        let error = changed(ONE, record + 48, &from.to_le_bytes());
        assert!(error.contains(&format!("from byte {from} on")), "{error}");
    }
    let small = archive(&[strings()]);
    let error = changed(&small, small.len() - 12, &60_000_u16.to_le_bytes());
    assert!(error.contains("claims 60000 files"), "{error}");
    // The zip crate, other than libtorch, would look for the directory elsewhere.
    assert!(refusal(&[b"#".as_slice(), &small].concat()).contains("its end record claims"));
    assert!(refusal(&[ONE, b"\n"].concat()).contains("it is no zip archive"));
}

#[test]
fn a_record_that_says_it_is_encrypted_is_refused() {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::FileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file_with_extra_data("network/data.pkl", options).expect("in memory");
    // An extra field, 7 bytes long, with what zip's AES has in it.
    zip.write_all(b"??\x07\0\x01\0AE\x01\0\0").expect("in memory");
    zip.end_extra_data().expect("in memory");
    let mut bytes = zip.finish().expect("in memory").into_inner();
    let fields: Vec<usize> = (0..bytes.len() - 4).filter(|&at| bytes[at..].starts_with(b"??\x07\0")).collect();
    assert_eq!(fields.len(), 2, "one before the file, one in the directory");
    for at in fields {
        bytes[at..at + 2].copy_from_slice(&0x9901_u16.to_le_bytes());
    }
    let error = read_engines(&bytes).expect_err("libtorch does not encrypt");
    assert!(error.contains("data.pkl: ") && error.contains("password"), "{error}");
}

/// The zip's checksum finds almost every flip; so the records are also cut and flipped inside a whole zip.
#[test]
fn every_cut_and_every_flip_is_an_answer_and_no_panic() {
    let bytes = archive(&[strings()]);
    for cut in 0..bytes.len() {
        assert!(read_engines(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let intact = read_engines(&bytes).expect("whole");
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            // Times, attributes and the like may change without harm.
            if let Ok(engines) = read_engines(&bytes) {
                assert!(engines == intact, "byte {at} ^ {flip}: {engines:?}");
            }
        }
    }
    let record = constants(&[strings(), with(1, "second")]);
    for cut in 0..record.len() {
        assert!(pickle::engines(&record[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..record.len() {
        for value in 0..=255 {
            let mut record = record.clone();
            record[at] = value;
            let Ok(found) = pickle::engines(&record) else { continue };
            for strings in found {
                let _ = parse("constants.pkl", &strings, &mut Seen::default());
            }
        }
    }
}

#[test]
fn the_platform_of_this_build_is_one_that_torch_tensorrt_knows() {
    assert!(["linux_x86_64", "linux_aarch64"].contains(&PLATFORM), "{PLATFORM}");
}
