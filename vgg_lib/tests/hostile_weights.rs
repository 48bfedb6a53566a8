//! Hostile weight files: truncated, changed, bombs. Each gives one sentence or some numbers, never a panic, and the
//! parser takes no more memory than a small multiple of the file, which a counting allocator checks.

#[path = "common/memory.rs"]
mod memory;
use memory::alone;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use vgg_lib::formats::{self, StateDict};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// The memory that a parser may take whatever the size of the file: 300,000 pickle instructions, and caches.
const SPARE: usize = 64 << 20;
/// f16 compressed to a quarter becomes f32, and `read_bytes` briefly holds the values twice.
const TIMES: usize = 24;

/// Reads bytes as a file with this name.
fn read(name: &str, bytes: &[u8]) -> Result<StateDict, String> {
    let file = bytes.to_vec();
    let (result, taken) = memory::taken(|| formats::read_bytes(name, file).map_err(|error| error.to_string()));
    assert!(taken <= SPARE + TIMES * bytes.len(), "{name} of {} bytes took {taken}", bytes.len());
    if let Err(error) = &result {
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
        assert!(error.len() < 600 && !error.chars().any(char::is_control), "{error}");
    }
    result
}

fn files() -> Vec<&'static str> {
    let torch = [
        "tiny.pth",
        "tiny_old.pth",
        "tiny_2017.pth",
        "tiny_views.pth",
        "tiny_checkpoint.pth.tar",
        "wild/checkpoint.pth",
        "wild/whole.pth",
    ];
    let keras = ["tiny.weights.h5", "tiny.keras", "tiny_theano.h5", "tiny_packed.h5", "tiny_nested.weights.h5"];
    let nested = ["keras/bare.keras", "keras/frozen_weights.h5", "keras/keras_0.h5"];
    if cfg!(feature = "hdf5") { [&torch[..], &keras, &nested].concat() } else { torch.to_vec() }
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{FOLDER}/{name}")).unwrap()
}

#[test]
fn a_truncated_file_is_refused() {
    alone(|| {
        for name in files() {
            let whole = fixture(name);
            let state = read(name, &whole).unwrap();
            let cuts = (1..100).map(|percent| whole.len() * percent / 100);
            for len in cuts.chain([1, 2, 7, 8, 9, 16, whole.len() - 9, whole.len() - 2, whole.len() - 1]) {
                match read(name, &whole[..len]) {
                    Err(error) => assert!(error.contains("is not a complete"), "{error}"),
                    // An HDF5 file may end in unused space.
                    Ok(same) => assert!(same == state && name.ends_with(".h5"), "{name} {len}"),
                }
            }
        }
    });
}

/// HDF5 files are longer and take longer to read, so each byte gets one of the changes there, not all.
fn changes_at<T: Copy>(name: &str, at: usize, changes: &[T]) -> Vec<T> {
    if name.ends_with("pth") { changes.to_vec() } else { vec![changes[at % changes.len()]] }
}

#[test]
fn a_changed_byte_never_panics() {
    alone(|| {
        for name in files() {
            let mut bytes = fixture(name);
            let mut refused = 0;
            for at in 0..bytes.len() {
                for change in changes_at(name, at, &[0x01, 0x80, 0xff]) {
                    bytes[at] ^= change;
                    refused += usize::from(read(name, &bytes).is_err());
                    bytes[at] ^= change;
                }
            }
            assert!(refused > 0, "{name}");
        }
    });
}

/// Lengths, counts and addresses have four or eight bytes: a large one is put in each place, or for HDF5 in every
/// third.
#[test]
fn a_huge_length_anywhere_never_panics() {
    alone(|| {
        for name in files() {
            let whole = fixture(name);
            for at in (0..whole.len() - 8).step_by(if name.ends_with("pth") { 1 } else { 3 }) {
                for value in changes_at(name, at / 3, &[u64::MAX >> 1, 1 << 40, u64::from(u32::MAX)]) {
                    let len = if value > u64::from(u32::MAX) { 8 } else { 4 };
                    let mut bytes = whole.clone();
                    bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
                    let _ = read(name, &bytes);
                }
            }
        }
    });
}

/// A zip of uncompressed files, each with this part of `content`.
fn zip(content: &[u8], files: &[(&str, std::ops::Range<usize>)], method: u16) -> Vec<u8> {
    let u16s = |values: &[u16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let u32s = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let mut zip = vec![];
    let mut central = vec![];
    for (name, place) in files {
        let content = &content[place.clone()];
        let sizes = u32s(&[crc32fast::hash(content), content.len() as u32, content.len() as u32]);
        let common = [u16s(&[20, 0, method, 0, 33]), sizes, u16s(&[name.len() as u16, 0])].concat();
        let start = u32s(&[zip.len() as u32]);
        zip.extend([b"PK\x03\x04", &common[..], name.as_bytes(), content].concat());
        central.extend([b"PK\x01\x02\x14\x00", &common[..], &[0; 10], &start, name.as_bytes()].concat());
    }
    let count = files.len() as u16;
    let end = [
        b"PK\x05\x06".to_vec(),
        u16s(&[0, 0, count, count]),
        u32s(&[central.len() as u32, zip.len() as u32]),
        vec![0; 2],
    ];
    [zip, central, end.concat()].concat()
}

/// PyTorch's zip of a pickle and one storage of 16 bytes.
fn torch(pickle: &[u8]) -> Vec<u8> {
    let content = [pickle, &[0; 16]].concat();
    zip(&content, &[("a/data.pkl", 0..pickle.len()), ("a/data/0", pickle.len()..content.len())], 0)
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn integer(value: i64) -> Vec<u8> {
    [&b"\x8a\x08"[..], &value.to_le_bytes()].concat()
}

fn tuple(values: &[i64]) -> Vec<u8> {
    [b"(".to_vec(), values.iter().flat_map(|v| integer(*v)).collect(), b"t".to_vec()].concat()
}

/// A view of storage 0.
fn view(len: i64, first: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let storage = [
        b"(".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        integer(len),
        b"tQ".to_vec(),
    ];
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage.concat(),
        integer(first),
        tuple(shape),
        tuple(strides),
        b"\x89}tR".to_vec(),
    ]
    .concat()
}

fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries = entries.iter().map(|(name, value)| [text(name), value.clone()].concat()).collect::<Vec<_>>().concat();
    [b"\x80\x02}(".to_vec(), entries, b"u.".to_vec()].concat()
}

#[test]
fn wrong_pytorch_files_are_refused() {
    alone(|| {
        let one = |view: Vec<u8>| torch(&dict(&[("w", view)]));
        assert_eq!(read("good.pth", &one(view(4, 1, &[3], &[1]))).unwrap()["w"].shape(), [3]);
        assert_eq!(read("good.pth", &one(view(4, 0, &[2, 2], &[1, 2]))).unwrap()["w"].shape(), [2, 2]);
        let beyond = "w reaches past the end of its numbers";
        let many: Vec<(&str, Vec<u8>)> =
            ["a", "b", "c", "d"].iter().cycle().take(400).map(|_| ("w", view(4, 0, &[4], &[1]))).collect();
        let names: Vec<String> = (0..400).map(|n| format!("w{n}")).collect();
        let shared: Vec<(&str, Vec<u8>)> =
            names.iter().zip(many).map(|(name, (_, view))| (name.as_str(), view)).collect();
        let long = dict(&[("w", view(4, 0, &[4], &[1]))]);
        for (bytes, words) in [
            (one(view(5, 0, &[4], &[1])), "its numbers are cut off"),
            (one(view(i64::MAX, 0, &[4], &[1])), "its numbers are cut off"),
            (one(view(-1, 0, &[4], &[1])), "a storage without type, key and length"),
            (one(view(4, 1, &[4], &[1])), beyond),
            (one(view(4, i64::MAX, &[4], &[1])), beyond),
            (one(view(4, 0, &[1 << 40], &[0])), "repeats its numbers"),
            (one(view(4, 0, &[1 << 40, 1 << 40], &[0, 0])), "repeats its numbers"),
            (one(view(4, 0, &[2, 2], &[i64::MAX, i64::MAX])), beyond),
            (one(view(4, -1, &[4], &[1])), "a call with other arguments than PyTorch's"),
            (one(view(4, 0, &[4], &[])), "a call with other arguments than PyTorch's"),
            (one(view(4, 0, &[1; 9], &[1; 9])), "a call with other arguments than PyTorch's"),
            (one(text("no tensor")), "holds no state dict"),
            (torch(b"\x80\x02N."), "holds no state dict"),
            (torch(&dict(&[])), "holds no state dict"),
            (torch(&dict(&[("state_dict", b"}".to_vec())])), "holds no state dict"),
            (torch(&[b"\x80\x02N".to_vec(), b"\x85".repeat(290_000), b".".to_vec()].concat()), "holds no state dict"),
            (torch(&b"]".repeat(1_000_000)), "more than 300000 lists, dicts and tensors"),
            (torch(&b"N".repeat(1_000_001)), "more than 1000000 pickle instructions"),
            (torch(b"\x80\x02cos\nsystem\n."), "holds no state dict, but a single value"),
            (torch(b"\x80\x02cos\nsystem\n)R."), "holds no state dict, but an object of os.system"),
            (zip(&long, &[("a/data.pkl", 0..long.len())], 0), "the numbers of a tensor are missing"),
            (zip(&long, &[("a/data.pkl", 0..long.len())], 8), "a/data.pkl is compressed; save with torch.save"),
            (zip(b"", &[("a/other", 0..0)], 0), "is a zip of other files (a/other)"),
            (zip(b"big", &[("a/byteorder", 0..3), ("a/data.pkl", 0..0)], 0), "holds big-endian numbers"),
            (b"\x80\x02K\x01.".to_vec(), "is not a complete PyTorch file"),
            (b"\x80\x02K\x01.\x80\x02K\x01.".to_vec(), "a pickle that torch.save did not write"),
            (b"no pickle".to_vec(), "it does not begin as torch.save begins a file"),
            (vec![], "is empty"),
            (b"PK\x05\x06".to_vec(), "is not a complete PyTorch file"),
        ] {
            let error = read("hostile.pth", &bytes).unwrap_err();
            assert!(error.contains(words), "{error}, not {words}");
        }
        // 400 tensors may share 16 bytes as long as together they are not much larger than the file.
        let _ = read("shared.pth", &torch(&dict(&shared)));
    });
}

/// A thousand tensors that share a storage of one megabyte.
#[test]
fn overlapping_tensors_cannot_multiply_the_size_of_a_file() {
    alone(|| {
        let names: Vec<String> = (0..1000).map(|n| format!("w{n}")).collect();
        let entries = |strides: &[i64]| -> Vec<(&str, Vec<u8>)> {
            names.iter().map(|name| (name.as_str(), view(1 << 18, 0, &[512, 512], strides))).collect()
        };
        for strides in [[512, 1], [1, 512]] {
            let pickle = dict(&entries(&strides));
            let content = [&pickle[..], &vec![0; 1 << 20]].concat();
            let files = [("a/data.pkl", 0..pickle.len()), ("a/data/0", pickle.len()..content.len())];
            let error = read("hostile.pth", &zip(&content, &files, 0)).unwrap_err();
            assert!(error.contains("repeats its numbers"), "{error}");
        }
    });
}

#[test]
fn old_files_with_wrong_lengths_are_refused() {
    alone(|| {
        let whole = fixture("tiny_old.pth");
        let names = |name: &str| whole.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
        assert!(names("_rebuild_tensor_v2") < whole.len() / 2);
        // Each storage follows its count, and the first count follows the last pickle.
        let state = read("old.pth", &whole).unwrap();
        let len: usize = state.values().map(|values| values.len() * 4 + 8).sum::<usize>() + 2 * 16;
        let first = whole.len() - len;
        for count in [u64::MAX, u64::MAX >> 1, 1 << 62, 1 << 40, 10_000] {
            let mut bytes = whole.clone();
            bytes[first..first + 8].copy_from_slice(&count.to_le_bytes());
            let error = read("old.pth", &bytes).unwrap_err();
            assert!(error.contains("its numbers are cut off"), "{error}");
        }
    });
}

/// The pickle of a fixture, and its storages as PyTorch's zip has them. A change of the zip itself would only be a wrong
/// checksum.
fn parts(name: &str) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let mut zip = ::zip::ZipArchive::new(std::io::Cursor::new(fixture(name))).unwrap();
    let names: Vec<String> = zip.file_names().map(str::to_string).collect();
    let mut content = |name: &str| {
        let mut bytes = vec![];
        std::io::Read::read_to_end(&mut zip.by_name(name).unwrap(), &mut bytes).unwrap();
        bytes
    };
    let pickle = names.iter().find(|name| name.ends_with("/data.pkl")).unwrap();
    let storages = names.iter().filter(|name| name.contains("/data/"));
    (
        content(pickle),
        storages.map(|name| (format!("a/data/{}", name.rsplit('/').next().unwrap()), content(name))).collect(),
    )
}

fn zipped(pickle: &[u8], storages: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut content = pickle.to_vec();
    let mut files = vec![("a/data.pkl", 0..pickle.len())];
    for (name, bytes) in storages {
        files.push((name, content.len()..content.len() + bytes.len()));
        content.extend(bytes);
    }
    zip(&content, &files, 0)
}

proptest! {
    /// Several bytes of a pickle are changed, or a piece of it is copied elsewhere.
    #[test]
    fn a_changed_pickle_never_panics(
        file in 0..FUZZED.len(),
        changes in vec((any::<Index>(), any::<u8>()), 0..6),
        copies in vec((any::<Index>(), any::<Index>(), 1..40usize), 0..3),
    ) {
        alone(|| {
            let (mut pickle, storages) = parts(FUZZED[file]);
            for (at, byte) in &changes {
                let at = at.index(pickle.len());
                pickle[at] = *byte;
            }
            for (from, to, len) in &copies {
                let from = from.index(pickle.len());
                let piece = pickle[from..pickle.len().min(from + len)].to_vec();
                let to = to.index(pickle.len());
                pickle.splice(to..to, piece);
            }
            let _ = read("changed.pth", &zipped(&pickle, &storages));
        });
    }
}

/// Pickles with everything that checkpoints and whole networks have.
const FUZZED: [&str; 5] = ["wild/checkpoint.pth", "wild/whole.pth", "wild/script.pt", "wild/quantized.pth", "tiny.pth"];

#[cfg(feature = "hdf5")]
#[test]
fn hdf5_bombs_are_refused() {
    alone(|| {
        assert!(read("bomb.h5", &fixture("bomb.h5")).unwrap_err().contains("is larger than the file"));
        assert!(read("loop.weights.h5", &fixture("loop.weights.h5")).unwrap_err().contains("models more than 8 deep"));
        for (bytes, words) in [
            (b"\x89HDF\r\n\x1a\n".to_vec(), "is not a complete HDF5 file"),
            (vec![], "is empty"),
            (vec![0xff; 4096], "is not a complete HDF5 file"),
        ] {
            assert!(read("hostile.h5", &bytes).unwrap_err().contains(words));
        }
        let h5 = fixture("tiny.weights.h5");
        let zipped = |name: &str, method| zip(&h5, &[(name, 0..h5.len())], method);
        assert_eq!(read("a.keras", &zipped("model.weights.h5", 0)).unwrap(), read("a.h5", &h5).unwrap());
        for (bytes, words) in [
            (zipped("model.weights.npz", 0), "is a zip of other files (model.weights.npz)"),
            (zipped("model.weights.h5", 8), "model.weights.h5 is compressed; save with model.save"),
        ] {
            assert!(read("hostile.keras", &bytes).unwrap_err().contains(words));
        }
    });
}
