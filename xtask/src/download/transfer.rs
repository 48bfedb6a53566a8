//! Downloads one file over HTTP, in as many attempts as it takes; each attempt continues where the last one stopped.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use ureq::{
    Agent, Body,
    http::{Response, header},
    tls,
};

use super::{bar, explain_full_disk};

/// Attempts without progress before giving up.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = if cfg!(test) { Duration::from_millis(5) } else { Duration::from_secs(2) };
/// The longest that one attempt takes. A dead connection is noticed after this time; a slow one continues with the next
/// attempt.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(15 * 60);

/// Why an attempt ended early.
enum Stop {
    /// No connection.
    Offline(ureq::Error),
    /// The connection broke, or the server is busy: worth another attempt.
    Cut(String),
    /// Trying again is of no use.
    Final(anyhow::Error),
}

/// Completes the file `part` from `url`. `file` is its final name, and `bytes` its length, if that is known.
pub fn transfer(url: &str, part: &Path, file: &Path, bytes: Option<u64>) -> Result<()> {
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_recv_body(Some(LONGEST_ATTEMPT))
        .tls_config(tls::TlsConfig::builder().root_certs(tls::RootCerts::WebPki).build())
        .build()
        .into();
    let (mut most, mut idle_attempts) = (length(part), 0);
    loop {
        let reason = match attempt(&agent, url, part, bytes) {
            Ok(()) => return Ok(()),
            Err(Stop::Final(error)) => return Err(error),
            Err(Stop::Offline(error)) if most == length(part) && idle_attempts == 0 => {
                return Err(anyhow!(
                    "no connection ({error}): without a network, download {url} on another machine, save it as {} and run this again",
                    file.display()
                ));
            }
            Err(Stop::Offline(error)) => error.to_string(),
            Err(Stop::Cut(reason)) => reason,
        };
        if length(part) > most {
            (most, idle_attempts) = (length(part), 0);
        }
        idle_attempts += 1;
        if idle_attempts == ATTEMPTS {
            return Err(anyhow!(
                "the download stopped after {} bytes ({reason}): run this again to continue from there",
                length(part)
            ));
        }
        println!("the download stopped ({reason}), trying again");
        thread::sleep(PAUSE * idle_attempts);
    }
}

/// Sends one request and appends what `part` lacks.
fn attempt(agent: &Agent, url: &str, part: &Path, bytes: Option<u64>) -> Result<(), Stop> {
    let have = length(part);
    if bytes.is_some_and(|bytes| bytes == have) {
        return Ok(()); // complete, but the last run ended before checking it
    }
    let mut request = agent.get(url).header(header::ACCEPT_ENCODING, "identity");
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    let response = request.call().map_err(Stop::Offline)?;
    let Some(have) = starts_at(&response, url, part, have)? else { return Ok(()) };
    let total = text(&response, header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    let total = total.map(|length| have + length);
    if let (Some(total), Some(bytes)) = (total, bytes)
        && total != bytes
    {
        return Err(Stop::Final(anyhow!(
            "what {url} offers has {total} bytes instead of {bytes}: it is not the right file"
        )));
    }
    append(response, part, have, total)
}

/// The position in the file at which the response's body starts: 0, or `have` if the server sends only what is missing.
/// `None` if nothing is missing.
fn starts_at(response: &Response<Body>, url: &str, part: &Path, have: u64) -> Result<Option<u64>, Stop> {
    let range = text(response, header::CONTENT_RANGE);
    match response.status().as_u16() {
        200 => Ok(Some(0)), // the whole file, whether we asked for a part or not
        206 if range.as_ref().is_some_and(|range| range.starts_with(&format!("bytes {have}-"))) => Ok(Some(have)),
        416 if range == Some(format!("bytes */{have}")) => Ok(None),
        206 | 416 => {
            write_to(part, false).map_err(Stop::Final)?;
            Err(Stop::Cut("the server's file has another length".into()))
        }
        404 | 410 => {
            Err(Stop::Final(anyhow!("there is no file at {url} (404): find its new address and pass it with --url")))
        }
        status @ (429 | 500..) => Err(Stop::Cut(format!("the server answers {status}"))),
        status => Err(Stop::Final(anyhow!("the server answers {status} for {url}: try another address with --url"))),
    }
}

fn text(response: &Response<Body>, name: header::HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// Writes the response's body into `part` from `have` on; `total` is the length of the whole file.
fn append(mut response: Response<Body>, part: &Path, have: u64, total: Option<u64>) -> Result<(), Stop> {
    let mut out = write_to(part, have > 0).map_err(Stop::Final)?;
    let bar = bar(total, true).with_position(have);
    bar.reset_eta();
    let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
    let mut buffer = vec![0; 1 << 16];
    let mut got = have;
    loop {
        let read = match body.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Stop::Cut(error.to_string())),
        };
        if read == 0 {
            break;
        }
        let folder = part.parent().unwrap_or(part);
        out.write_all(&buffer[..read]).map_err(|error| Stop::Final(explain_full_disk(error.into(), folder)))?;
        got += read as u64;
        bar.set_position(got);
    }
    bar.finish_and_clear();
    match total {
        Some(total) if got < total => Err(Stop::Cut(format!("{got} of {total} bytes arrived"))),
        _ => Ok(()),
    }
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}

fn write_to(part: &Path, append: bool) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true);
    let options = if append { options.append(true) } else { options.write(true).truncate(true) };
    options
        .open(part)
        .map_err(|error| explain_full_disk(error.into(), part.parent().unwrap_or(part)))
        .with_context(|| format!("cannot write {}", part.display()))
}
