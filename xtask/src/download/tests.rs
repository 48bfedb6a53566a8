//! Downloads from an HTTP server on the loopback address, of files small enough to be made here.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, Receiver},
    thread,
};

use tempfile::TempDir;

use super::*;

/// The server's answer to one connection.
#[derive(Clone)]
struct Answer {
    status: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Answer {
    fn whole(body: &[u8]) -> Self {
        Self { status: "200 OK", headers: vec![format!("Content-Length: {}", body.len())], body: body.to_vec() }
    }

    /// Announces everything from `from` on, but stops at `to`.
    fn range(body: &[u8], from: usize, to: usize) -> Self {
        let headers = vec![
            format!("Content-Length: {}", body.len() - from),
            format!("Content-Range: bytes {from}-{}/{}", body.len() - 1, body.len()),
        ];
        Self { status: "206 Partial Content", headers, body: body[from..to].to_vec() }
    }

    fn status(status: &'static str) -> Self {
        Self { status, headers: vec!["Content-Length: 0".into()], body: Vec::new() }
    }

    fn cut_at(mut self, bytes: usize) -> Self {
        self.body.truncate(bytes);
        self
    }
}

/// Gives `answers`, one per connection, and reports the `Range` header of each request. It ends after the last.
fn serve(answers: Vec<Answer>) -> (String, Receiver<Option<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let (requests, received) = mpsc::channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            requests.send(range_of(&stream)).ok();
            write!(stream, "HTTP/1.1 {}\r\nConnection: close\r\n", answer.status).unwrap();
            for header in answer.headers {
                write!(stream, "{header}\r\n").unwrap();
            }
            write!(stream, "\r\n").unwrap();
            stream.write_all(&answer.body).ok();
        }
    });
    (url, received)
}

fn range_of(stream: &TcpStream) -> Option<String> {
    BufReader::new(stream)
        .lines()
        .map(Result::unwrap)
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.to_lowercase().strip_prefix("range: ").map(str::to_owned))
}

fn ranges(received: Receiver<Option<String>>) -> Vec<Option<String>> {
    received.try_iter().collect()
}

fn content() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn digest(bytes: &[u8]) -> &'static str {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>().leak()
}

fn source(url: &str, content: &[u8]) -> Source {
    let check = Check::Sha256 { bytes: content.len() as u64, digest: digest(content) };
    Source { url: url.into(), file: "file.bin", check }
}

/// Downloads from a server that gives `answers`. Returns the file's bytes or the error, and the requested ranges.
fn download(answers: Vec<Answer>, content: &[u8], dest: &Path) -> (Result<Vec<u8>, String>, Vec<Option<String>>) {
    let (url, received) = serve(answers);
    let result = fetch(&source(&url, content), dest);
    let bytes = result.map(|_| fs::read(dest.join("file.bin")).unwrap()).map_err(|error| format!("{error:#}"));
    (bytes, ranges(received))
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn part_with(dest: &TempDir, bytes: &[u8]) {
    fs::write(dest.path().join("file.bin.part"), bytes).unwrap();
}

#[test]
fn a_file_is_downloaded_only_once() {
    let (content, dest) = (content(), folder());
    let (bytes, ranges) = download(vec![Answer::whole(&content)], &content, dest.path());
    assert!(bytes.unwrap() == content);
    assert_eq!(ranges, [None]);
    assert_eq!(names(dest.path()), ["file.bin"]);
    // No server is needed any more.
    assert!(!fetch(&source("http://127.0.0.1:1/", &content), dest.path()).unwrap());
}

#[test]
fn an_interrupted_download_continues_by_itself() {
    let (content, dest) = (content(), folder());
    let answers = vec![
        Answer::whole(&content).cut_at(400_000),
        Answer::range(&content, 400_000, 700_000),
        Answer::range(&content, 700_000, content.len()),
    ];
    let (bytes, ranges) = download(answers, &content, dest.path());
    assert!(bytes.unwrap() == content);
    assert_eq!(ranges, [None, Some("bytes=400000-".into()), Some("bytes=700000-".into())]);
}

#[test]
fn a_failed_download_is_kept_and_the_next_command_continues_it() {
    let (content, dest) = (content(), folder());
    let busy = || Answer::status("503 Service Unavailable");
    let (error, _) =
        download(vec![Answer::whole(&content).cut_at(123_456), busy(), busy(), busy(), busy()], &content, dest.path());
    assert_eq!(
        error.unwrap_err(),
        "the download stopped after 123456 bytes (the server answers 503): run this again to continue from there"
    );
    let (bytes, ranges) = download(vec![Answer::range(&content, 123_456, content.len())], &content, dest.path());
    assert!(bytes.unwrap() == content);
    assert_eq!(ranges, [Some("bytes=123456-".into())]);
}

#[test]
fn a_server_without_ranges_starts_again() {
    let (content, dest) = (content(), folder());
    part_with(&dest, &[7; 1000]);
    let (bytes, ranges) = download(vec![Answer::whole(&content)], &content, dest.path());
    assert!(bytes.unwrap() == content);
    assert_eq!(ranges, [Some("bytes=1000-".into())]);
}

#[test]
fn a_part_longer_than_the_file_starts_again() {
    let (content, dest) = (content(), folder());
    part_with(&dest, &vec![7; content.len() + 1]);
    let mut too_long = Answer::status("416 Range Not Satisfiable");
    too_long.headers.push(format!("Content-Range: bytes */{}", content.len()));
    let (bytes, ranges) = download(vec![too_long, Answer::whole(&content)], &content, dest.path());
    assert!(bytes.unwrap() == content);
    assert_eq!(ranges, [Some(format!("bytes={}-", content.len() + 1)), None]);
}

#[test]
fn a_complete_part_is_only_checked() {
    let (content, dest) = (content(), folder());
    part_with(&dest, &content);
    let (bytes, ranges) = download(Vec::new(), &content, dest.path());
    assert!(bytes.unwrap() == content);
    assert!(ranges.is_empty());
}

#[test]
fn a_wrong_hash_is_reported_and_nothing_is_kept() {
    let (content, dest) = (content(), folder());
    let mut wrong = content.clone();
    wrong[1000] ^= 1;
    let (error, _) = download(vec![Answer::whole(&wrong)], &content, dest.path());
    let error = error.unwrap_err();
    assert!(error.contains("is not the right file and was deleted: its sha256 is "), "{error}");
    assert!(error.contains(digest(&content)) && error.contains(digest(&wrong)), "{error}");
    assert!(names(dest.path()).is_empty());
}

#[test]
fn a_wrong_length_is_reported_before_anything_is_downloaded() {
    let (content, dest) = (content(), folder());
    let (error, _) = download(vec![Answer::whole(b"<html>")], &content, dest.path());
    let error = error.unwrap_err();
    assert!(error.ends_with("/file offers has 6 bytes instead of 1200000: it is not the right file"), "{error}");
    assert!(names(dest.path()).is_empty());
}

#[test]
fn a_wrong_file_of_the_readers_own_is_left_alone() {
    let (content, dest) = (content(), folder());
    fs::write(dest.path().join("file.bin"), "mine").unwrap();
    let (error, _) = download(Vec::new(), &content, dest.path());
    assert!(
        error
            .unwrap_err()
            .ends_with("is not the right file: delete it and run this again: it has 4 bytes instead of 1200000")
    );
    assert_eq!(names(dest.path()), ["file.bin"]);
}

#[test]
fn a_missing_file_is_said_at_once() {
    let dest = folder();
    let (error, ranges) = download(vec![Answer::status("404 Not Found")], &content(), dest.path());
    let error = error.unwrap_err();
    assert!(error.starts_with("there is no file at http://127.0.0.1:"), "{error}");
    assert!(error.ends_with("(404): find its new address and pass it with --url"), "{error}");
    assert_eq!(ranges.len(), 1);
}

#[test]
fn without_a_network_the_reader_is_told_what_to_fetch_and_where_to_put_it() {
    let dest = folder();
    // A port that is in use for something else than listening, so nobody can listen there meanwhile.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let port = client.local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/file");
    let error = fetch(&source(&url, b"x"), dest.path()).unwrap_err().to_string();
    assert!(error.starts_with("no connection ("), "{error}");
    let put = dest.path().join("file.bin");
    assert!(error.contains(&format!("download {url} on another machine, save it as {}", put.display())), "{error}");
}

/// /dev/full can be opened but has no space, like a disk that fills up.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_reported_in_one_sentence() {
    let (content, dest) = (content(), folder());
    std::os::unix::fs::symlink("/dev/full", dest.path().join("file.bin.part")).unwrap();
    let (error, ranges) = download(vec![Answer::whole(&content)], &content, dest.path());
    assert_eq!(
        error.unwrap_err(),
        format!(
            "no space left in {}: free some, or choose another folder with --dest, and run this again",
            dest.path().display()
        )
    );
    assert_eq!(ranges.len(), 1, "trying again is of no use");
}

#[test]
fn a_full_disk_while_unpacking_is_reported_and_the_incomplete_folder_removed() {
    let (content, dest) = (content(), folder());
    let (url, _received) = serve(vec![Answer::whole(&content)]);
    let full = |_: &Path, to: &Path| {
        fs::write(to.join("half"), "x")?;
        Err(io::Error::from(io::ErrorKind::StorageFull).into())
    };
    let error = archive(&source(&url, &content), dest.path(), "set", full).unwrap_err().to_string();
    assert!(error.starts_with("no space left in "), "{error}");
    assert_eq!(names(dest.path()), ["file.bin"], "the archive stays for the next try");
}

#[test]
fn cifar10_is_unpacked_and_the_archive_removed() {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let files = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];
    for name in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        tar.append_data(&mut header, format!("cifar-10-batches-bin/{name}.bin"), &b"abc"[..]).unwrap();
    }
    let packed = tar.into_inner().unwrap().finish().unwrap();
    let dest = folder();
    let (url, _received) = serve(vec![Answer::whole(&packed)]);
    archive(&source(&url, &packed), dest.path(), "cifar-10-batches-bin", unpack::cifar10).unwrap();
    assert_eq!(names(dest.path()), ["cifar-10-batches-bin"]);
    let folder = dest.path().join("cifar-10-batches-bin");
    assert_eq!(names(&folder), files.map(|name| format!("{name}.bin")));
    assert_eq!(fs::read(folder.join("test_batch.bin")).unwrap(), b"abc");
    // The folder exists, so no server is contacted.
    run(Name::Cifar10, Some("http://127.0.0.1:1/".into()), dest.path()).unwrap();
}

#[test]
fn an_archive_that_lacks_a_batch_is_refused_and_no_folder_appears() {
    let packed = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()))
        .into_inner()
        .unwrap()
        .finish()
        .unwrap();
    let dest = folder();
    let (url, _received) = serve(vec![Answer::whole(&packed)]);
    let error = archive(&source(&url, &packed), dest.path(), "cifar-10-batches-bin", unpack::cifar10).unwrap_err();
    assert!(error.to_string().ends_with("does not hold data_batch_1.bin"), "{error}");
    assert_eq!(names(dest.path()), ["file.bin"]);
}

#[test]
fn dogscats_are_sorted_into_train_and_valid() {
    let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, bytes) in [
        ("PetImages/Cat/0.jpg", "cat0"),
        ("PetImages/Cat/666.jpg", ""),
        ("PetImages/Cat/11499.jpg", "cat11499"),
        ("PetImages/Cat/11500.jpg", "cat11500"),
        ("PetImages/Cat/Thumbs.db", "no photo"),
        ("PetImages/Dog/7.jpg", "unreadable stays"),
        ("PetImages/Dog/12499.jpg", "dog12499"),
        ("readme[1].txt", "no photo"),
    ] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes.as_bytes()).unwrap();
    }
    let packed = zip.finish().unwrap().into_inner();
    let dest = folder();
    let (url, _received) = serve(vec![Answer::whole(&packed)]);
    archive(&source(&url, &packed), dest.path(), "dogscats", unpack::dogscats).unwrap();
    let set = |path: &str| names(&dest.path().join("dogscats").join(path));
    assert_eq!(set("train/cats"), ["cat.0.jpg", "cat.11499.jpg"]);
    assert_eq!(set("valid/cats"), ["cat.11500.jpg"]);
    assert_eq!(set("train/dogs"), ["dog.7.jpg"]);
    assert_eq!(set("valid/dogs"), ["dog.12499.jpg"]);
    assert_eq!(fs::read(dest.path().join("dogscats/valid/cats/cat.11500.jpg")).unwrap(), b"cat11500");
}

fn safetensors(tensor: &str) -> Vec<u8> {
    let mut header = format!(r#"{{"{tensor}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#).into_bytes();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.append(&mut header);
    file.extend([0; 8]);
    file
}

#[test]
fn vgg16_is_continued_and_checked_without_a_digest() {
    let (weights, dest) = (safetensors("features.0.weight"), folder());
    let (url, received) = serve(vec![Answer::whole(&weights).cut_at(20), Answer::range(&weights, 20, weights.len())]);
    run(Name::Vgg16, Some(url), dest.path()).unwrap();
    assert_eq!(ranges(received), [None, Some("bytes=20-".into())]);
    assert!(fs::read(dest.path().join("models/vgg16.tv_in1k.safetensors")).unwrap() == weights);
}

#[test]
fn a_file_that_is_not_vgg16_is_refused() {
    let short = safetensors("features.0.weight")[..50].to_vec();
    let mut long = safetensors("features.0.weight");
    long.push(0);
    for (sent, reason) in [
        (b"<html>not weights</html>".to_vec(), "it is not a safetensors file"),
        (safetensors("classifier.weight"), "it has no tensor features.0.weight"),
        (short, "it is not a safetensors file"),
        (long, "where its header says"),
    ] {
        let dest = folder();
        let (url, _received) = serve(vec![Answer::whole(&sent)]);
        let error = format!("{:#}", run(Name::Vgg16, Some(url), dest.path()).unwrap_err());
        assert!(error.contains("is not the right file and was deleted") && error.contains(reason), "{error}");
        assert!(names(&dest.path().join("models")).is_empty());
    }
}

#[test]
fn class_names_are_json_with_1000_entries() {
    let json = |entries| {
        let map: serde_json::Map<_, _> = (0..entries).map(|i| (i.to_string(), i.into())).collect();
        serde_json::to_vec(&map).unwrap()
    };
    let dest = folder();
    let (url, _received) = serve(vec![Answer::whole(&json(999)), Answer::whole(&json(1000))]);
    let error = format!("{:#}", run(Name::Classes, Some(url.clone()), dest.path()).unwrap_err());
    assert!(error.ends_with("it is not JSON with 1000 entries"), "{error}");
    run(Name::Classes, Some(url), dest.path()).unwrap();
    assert_eq!(names(dest.path()), ["imagenet_class_index.json"]);
}
