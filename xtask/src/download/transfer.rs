//! One file over HTTP, in as many goes as it takes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use ureq::{Agent, http::header, tls};

use super::{bar, explain_full_disk};

/// Goes without progress before giving up.
const GOES: u32 = 4;
const PAUSE: Duration = if cfg!(test) { Duration::from_millis(5) } else { Duration::from_secs(2) };
/// Of one go. A connection that went dead is noticed after that; a slow one goes on with the next go.
const LONGEST_GO: Duration = Duration::from_secs(15 * 60);

/// Why a go ended early.
enum Stop {
    /// No connection.
    Offline(ureq::Error),
    /// It broke off or the server is busy: worth another go.
    Cut(String),
    /// No use in trying again.
    Final(anyhow::Error),
}

/// Completes `part` from `url`. `file` is what `part` will be called, and `bytes` its length where that is known.
pub fn transfer(url: &str, part: &Path, file: &Path, bytes: Option<u64>) -> Result<()> {
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_recv_body(Some(LONGEST_GO))
        .tls_config(tls::TlsConfig::builder().root_certs(tls::RootCerts::WebPki).build())
        .build()
        .into();
    let (mut most, mut idle_goes) = (length(part), 0);
    loop {
        let reason = match go(&agent, url, part, bytes) {
            Ok(()) => return Ok(()),
            Err(Stop::Final(error)) => return Err(error),
            Err(Stop::Offline(error)) if most == length(part) && idle_goes == 0 => {
                return Err(anyhow!(
                    "no connection ({error}): without a network, fetch {url} elsewhere with a browser, put it at {} and run this again",
                    file.display()
                ));
            }
            Err(Stop::Offline(error)) => error.to_string(),
            Err(Stop::Cut(reason)) => reason,
        };
        if length(part) > most {
            (most, idle_goes) = (length(part), 0);
        }
        idle_goes += 1;
        if idle_goes == GOES {
            return Err(anyhow!(
                "the download broke off after {} bytes ({reason}): run this again and it goes on from there",
                length(part)
            ));
        }
        println!("the download broke off ({reason}), trying again");
        thread::sleep(PAUSE * idle_goes);
    }
}

/// One request: appends what `part` lacks.
fn go(agent: &Agent, url: &str, part: &Path, bytes: Option<u64>) -> Result<(), Stop> {
    let mut have = length(part);
    if bytes.is_some_and(|bytes| bytes == have) {
        return Ok(()); // whole, but stopped before its check
    }
    let mut request = agent.get(url).header(header::ACCEPT_ENCODING, "identity");
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    let mut response = request.call().map_err(Stop::Offline)?;
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (length, range) = (text(header::CONTENT_LENGTH), text(header::CONTENT_RANGE));

    match response.status().as_u16() {
        200 => have = 0, // all of it, whether we asked for a part or not
        206 if range.as_ref().is_some_and(|range| range.starts_with(&format!("bytes {have}-"))) => {}
        // What we have is all there is, or more.
        416 if range == Some(format!("bytes */{have}")) => return Ok(()),
        206 | 416 => {
            write_to(part, false).map_err(Stop::Final)?;
            return Err(Stop::Cut("the server has another length".into()));
        }
        404 | 410 => {
            return Err(Stop::Final(anyhow!(
                "there is no file at {url} (404): find its new address and give it with --url"
            )));
        }
        status @ (429 | 500..) => return Err(Stop::Cut(format!("the server answers {status}"))),
        status => return Err(Stop::Final(anyhow!("the server answers {status} for {url}: try another with --url"))),
    }
    let total = length.and_then(|length| length.parse::<u64>().ok()).map(|length| have + length);
    if let (Some(total), Some(bytes)) = (total, bytes)
        && total != bytes
    {
        return Err(Stop::Final(anyhow!(
            "what {url} offers has {total} bytes instead of {bytes}: it is not the right file"
        )));
    }

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
        Some(total) if got < total => Err(Stop::Cut(format!("{got} of {total} bytes came"))),
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
