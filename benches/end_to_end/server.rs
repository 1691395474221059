//! A server that is never what limits: answers are rendered once and written as they are. The first
//! segment of the path says how large the picture is. Used by `tests/cost` too.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};

use super::picture;

/// Bytes of an HTTP chunk of the answer.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes of a request that are read at once.
const READ_BYTES: usize = 256 << 10;

/// Answers by picture size.
type Answers = Mutex<BTreeMap<usize, Arc<Vec<u8>>>>;

/// Answers whoever connects, until the process ends.
pub(crate) fn answer_all(listener: &TcpListener) {
    let answers = Arc::new(Answers::default());
    for socket in listener.incoming().flatten() {
        let answers = Arc::clone(&answers);
        // A client that hangs up is the end of its connection only.
        std::thread::spawn(move || drop(connection(&socket, &answers)));
    }
}

fn connection(socket: &TcpStream, answers: &Answers) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(READ_BYTES, socket);
    let mut writer = socket;
    while let Some((image_bytes, body_bytes)) = request_head(&mut reader)? {
        skip(&mut reader, body_bytes)?;
        writer.write_all(&answer(answers, image_bytes))?;
    }
    Ok(())
}

/// Size of the picture that is asked for, and of the request's body; `None` at the connection's end.
fn request_head(reader: &mut impl BufRead) -> Result<Option<(usize, u64)>> {
    let (mut line, mut image_bytes, mut body_bytes) = (String::new(), None, 0);
    while reader.read_line(&mut line)? > 0 {
        let text = line.trim_end();
        if let Some(path) = text.strip_prefix("POST /") {
            image_bytes = Some(path.split('/').next().unwrap_or_default().parse()?);
        } else if let Some((name, value)) = text.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                body_bytes = value.trim().parse()?;
            }
        } else if text.is_empty() {
            let Some(image_bytes) = image_bytes else { bail!("not a POST") };
            return Ok(Some((image_bytes, body_bytes)));
        }
        line.clear();
    }
    Ok(None)
}

fn skip(reader: &mut impl BufRead, mut bytes: u64) -> Result<()> {
    while bytes > 0 {
        let block = reader.fill_buf()?.len();
        if block == 0 {
            bail!("the request ended too early");
        }
        let taken = block.min(usize::try_from(bytes).unwrap_or(usize::MAX));
        reader.consume(taken);
        bytes -= taken as u64;
    }
    Ok(())
}

fn answer(answers: &Answers, image_bytes: usize) -> Arc<Vec<u8>> {
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(answers.entry(image_bytes).or_insert_with(|| Arc::new(rendered(image_bytes))))
}

/// Head and body, chunked, as the real API sends them: the picture is one event.
fn rendered(image_bytes: usize) -> Vec<u8> {
    let picture = base64_simd::STANDARD.encode_to_string(picture::png(image_bytes, 1));
    let body = format!(
        concat!(
            r#"data: {{"candidates":[{{"content":{{"role":"model","parts":[{{"inlineData":"#,
            r#"{{"mimeType":"image/png","data":"{}"}}}}]}},"index":0}}],"modelVersion":"m"}}"#,
            "\r\n\r\n",
            r#"data: {{"candidates":[{{"content":{{"role":"model","parts":[{{"text":""}}]}},"#,
            r#""finishReason":"STOP","index":0}}],"usageMetadata":{{"promptTokenCount":9,"#,
            r#""candidatesTokenCount":1290,"totalTokenCount":1299}},"responseId":"r"}}"#,
            "\r\n\r\n",
        ),
        picture
    );
    let mut answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.as_bytes().chunks(CHUNK_BYTES) {
        answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        answer.extend_from_slice(chunk);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    answer
}
