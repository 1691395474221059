//! The floor: the least that an image costs. Sockets, base64 by SIMD and a file, on threads that
//! block; no JSON beyond finding the picture, no digest, no check, no queue, no second try.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use base64_simd::{AsOut as _, STANDARD};

use super::case::Case;
use super::measure::{Cost, cost_of};

/// Bytes that are read, and letters that are decoded, at once.
const BLOCK_BYTES: usize = 128 << 10;
/// Bytes of a reference that are read and encoded at once; a multiple of 3.
const REFERENCE_BLOCK_BYTES: usize = 96 << 10;
/// What stands before and after a picture in the answer.
const PICTURE_START: &[u8] = br#""data":""#;
const PICTURE_END: u8 = b'"';

/// Runs the case once in `folder`, in a process of its own.
pub(crate) fn cost(case: &Case, base_url: &str, references: &[PathBuf], folder: &Path) -> Result<Cost> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--floor").arg(base_url).arg(folder);
    command.args([case.concurrency.to_string(), case.jobs.to_string(), case.references.to_string()]);
    command.args(references).stdin(Stdio::null());
    cost_of(&mut command)
}

/// The process itself.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let [base_url, folder, concurrency, jobs, wanted, references @ ..] = args else {
        bail!("too few arguments");
    };
    let address = base_url.trim_start_matches("http://");
    let (host, path) = address.split_once('/').context("no path")?;
    let jobs: u32 = jobs.parse()?;
    let wanted: usize = wanted.parse()?;
    let case = Case { name: "", image_bytes: 0, concurrency: concurrency.parse()?, jobs, references: wanted };
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..case.concurrency)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut connection = Connection::open(host)?;
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= jobs {
                            return Ok(());
                        }
                        connection.send(host, path, &case.references_of(number, references))?;
                        connection.receive(File::create(Path::new(folder).join(format!("{number}.png")))?)?;
                    }
                })
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(ended) => ended?,
                Err(_) => bail!("a thread panicked"),
            }
        }
        Ok(())
    })
}

struct Connection {
    reader: BufReader<TcpStream>,
    out: Vec<u8>,
}

impl Connection {
    fn open(host: &str) -> Result<Self> {
        let socket = TcpStream::connect(host)?;
        socket.set_nodelay(true)?;
        Ok(Self { reader: BufReader::with_capacity(BLOCK_BYTES, socket), out: vec![0; 2 * BLOCK_BYTES] })
    }

    fn send(&mut self, host: &str, path: &str, references: &[String]) -> Result<()> {
        let head = br#"{"contents":[{"role":"user","parts":[{"text":"A press at night"}"#;
        let before = br#",{"inline_data":{"mime_type":"image/png","data":""#;
        let (after, tail) = (br#""}}"#, b"]}]}");
        let mut bytes = (head.len() + tail.len()) as u64;
        for reference in references {
            let encoded = std::fs::metadata(reference)?.len().div_ceil(3) * 4;
            bytes += (before.len() + after.len()) as u64 + encoded;
        }
        let mut socket: &TcpStream = self.reader.get_ref();
        write!(
            socket,
            "POST /{path}/v1beta/models/m:streamGenerateContent?alt=sse HTTP/1.1\r\nhost: {host}\r\n\
             content-type: application/json\r\ncontent-length: {bytes}\r\n\r\n"
        )?;
        socket.write_all(head)?;
        let mut block = vec![0; if references.is_empty() { 0 } else { REFERENCE_BLOCK_BYTES }];
        for reference in references {
            socket.write_all(before)?;
            let mut file = File::open(reference)?;
            let mut left = usize::try_from(file.metadata()?.len())?;
            while left > 0 {
                let taken = left.min(REFERENCE_BLOCK_BYTES);
                file.read_exact(&mut block[..taken])?;
                socket.write_all(STANDARD.encode(&block[..taken], self.out.as_mut_slice().as_out()))?;
                left -= taken;
            }
            socket.write_all(after)?;
        }
        socket.write_all(tail)?;
        Ok(())
    }

    /// Reads a chunked answer; its first picture goes to `file`.
    fn receive(&mut self, file: File) -> Result<()> {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if self.reader.read_line(&mut line)? == 0 {
                bail!("no answer");
            }
        }
        let Self { reader, out } = self;
        let mut picture =
            Picture { place: Place::Before, carry: Vec::with_capacity(4), out, filled: 0, file };
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let mut left = usize::from_str_radix(line.trim(), 16).context("no chunk")?;
            let is_last = left == 0;
            while left > 0 {
                let block = reader.fill_buf()?;
                let taken = block.len().min(left);
                picture.take(&block[..taken])?;
                reader.consume(taken);
                left -= taken;
            }
            line.clear();
            reader.read_line(&mut line)?;
            if is_last {
                return Ok(());
            }
        }
    }
}

/// Where an answer's picture is: before it, in it, behind it.
enum Place {
    Before,
    In,
    Behind,
}

struct Picture<'a> {
    place: Place,
    /// Letters of a group that is not whole yet.
    carry: Vec<u8>,
    out: &'a mut [u8],
    filled: usize,
    file: File,
}

impl Picture<'_> {
    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        if matches!(self.place, Place::Before) {
            // Nothing splits the answer before its picture: it is written in large blocks.
            let Some(start) = memchr::memmem::find(bytes, PICTURE_START) else { return Ok(()) };
            bytes = &bytes[start + PICTURE_START.len()..];
            self.place = Place::In;
        }
        if matches!(self.place, Place::In) {
            let end = memchr::memchr(PICTURE_END, bytes);
            self.decode(&bytes[..end.unwrap_or(bytes.len())])?;
            if end.is_some() {
                self.place = Place::Behind;
                let rest = std::mem::take(&mut self.carry);
                self.whole_groups(&rest)?;
                self.file.write_all(&self.out[..self.filled])?;
            }
        }
        Ok(())
    }

    fn decode(&mut self, mut letters: &[u8]) -> Result<()> {
        if !self.carry.is_empty() {
            let taken = letters.len().min(4 - self.carry.len());
            self.carry.extend_from_slice(&letters[..taken]);
            letters = &letters[taken..];
            if self.carry.len() < 4 || letters.is_empty() {
                return Ok(());
            }
            let group = std::mem::take(&mut self.carry);
            self.whole_groups(&group)?;
        }
        // The last group may be padded: it waits for the end.
        let (whole, rest) = letters.split_at(letters.len().saturating_sub(1) / 4 * 4);
        self.whole_groups(whole)?;
        self.carry.extend_from_slice(rest);
        Ok(())
    }

    fn whole_groups(&mut self, letters: &[u8]) -> Result<()> {
        if self.filled + letters.len() > self.out.len() {
            self.file.write_all(&self.out[..self.filled])?;
            self.filled = 0;
        }
        self.filled += STANDARD.decode(letters, self.out[self.filled..].as_out())?.len();
        Ok(())
    }
}
