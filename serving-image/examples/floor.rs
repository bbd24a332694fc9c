//! Servers that do nothing: what is left of a request's time when there is no work in it.
//!
//! `cargo run --release --example floor -- sockets 127.0.0.1:8081`: one blocking thread a
//! connection reads what is there and writes a fixed answer: two system calls, and no HTTP. With
//! `hyper`: an event loop on one thread, HTTP as serin-serve's, no routes, no log. `cargo xtask
//! bench serve-http` measures both beside serin-serve.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::{env, io, thread};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

/// As long as an answer to one flower.
const ANSWER: &[u8] = &[b'x'; 170];

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let (kind, address) = (arguments.next(), arguments.next());
    let listener = TcpListener::bind(address.unwrap_or_default())?;
    match kind.as_deref() {
        Some("sockets") => sockets(&listener),
        Some("hyper") => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(http(listener)),
        _ => Err(io::Error::other("floor sockets|hyper ADDRESS")),
    }
}

/// Takes each read for one request, which it is where a client waits for each answer.
fn sockets(listener: &TcpListener) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
        ANSWER.len()
    );
    let answer: &'static [u8] = [head.as_bytes(), ANSWER].concat().leak();
    for stream in listener.incoming() {
        let mut stream: TcpStream = stream?;
        stream.set_nodelay(true)?;
        thread::spawn(move || -> io::Result<()> {
            let mut request = [0; 4096];
            while stream.read(&mut request)? > 0 {
                stream.write_all(answer)?;
            }
            Ok(())
        });
    }
    Ok(())
}

async fn http(listener: TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(connection);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let _ = request.into_body().collect().await; // a body that is not read closes the connection
    Ok(Response::new(Full::new(Bytes::from_static(ANSWER))))
}
