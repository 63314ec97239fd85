//! The listening socket, and an `accept` that survives a full file table.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::limits::Limits;
use super::stats::Stats;

/// Opens the listening socket. Must be called inside a tokio runtime.
///
/// # Errors
/// The operating system's: the address is in use, not ours, or not allowed.
pub fn bind(address: SocketAddr, limits: &Limits) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A restarted worker takes its port back while old connections are still in TIME_WAIT. On Windows the flag would let two programs share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    // Set once here: on Linux accepted sockets inherit all three.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(limits.tcp_user_timeout))?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(limits.backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

/// Raises this process's soft limit of open files to its hard limit and returns it; `None` where there is no limit or it cannot be read.
pub fn raise_open_file_limit() -> Option<u64> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current }
    }
    #[cfg(not(unix))]
    None
}

/// The next connection. Errors are counted, waited out with a growing pause, and logged at most once a second, so that a full file table neither ends the
/// server nor keeps a core busy.
///
/// Cancel safe: no connection is lost when the future is dropped.
pub(super) async fn accept(listener: &TcpListener, stats: &Stats) -> (TcpStream, SocketAddr) {
    let mut pause = Duration::from_millis(5);
    loop {
        match listener.accept().await {
            Ok(connection) => return connection,
            // The peer was gone before we looked: nothing is wrong here.
            Err(e) if is_peer_error(&e) => stats.accept_error(),
            Err(e) => {
                stats.accept_error();
                if pause >= Duration::from_secs(1) {
                    tracing::warn!(error = %e, "cannot accept connections");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

fn is_peer_error(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(e.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
