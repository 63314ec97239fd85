//! `sd-worker serve`: from flags to a listening worker, and its way out.

use super::{EX_USAGE, terminal};
use crate::{
    api,
    app::{App, LAST_WORDS, Settings},
    auth::{Gate, GatePolicy, OriginPolicy, Origins, TokenSources, Tokens, check_bind, host_name},
    config::ServeArgs,
    fault::Fault,
    hive::{self, Beat, HiveConfig, Status, WorkerStatus},
    outbound::check_url,
    server::{self, Phase, Stats},
    telemetry::Observed,
    webhook::WebhookPolicy,
};
use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How often finished jobs are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// How long the store may take to write what is left: after an orderly end, and after a second signal.
const CARE: Duration = Duration::from_secs(10);
const HASTE: Duration = Duration::from_secs(2);

pub(super) fn run(args: ServeArgs) -> ExitCode {
    if args.build_info {
        terminal::say(if cfg!(debug_assertions) { "debug" } else { "release" });
        return ExitCode::SUCCESS;
    }
    let checked = tokens(&args).and_then(|tokens| Ok((origin_policy(&args, &tokens)?, tokens, webhooks(&args)?)));
    let (origin, tokens, webhooks) = match checked {
        Ok(checked) => checked,
        Err(message) => {
            terminal::complain(&message);
            return ExitCode::from(EX_USAGE);
        }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).thread_name("http").build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(serve(args, origin, tokens, webhooks));
            // A load or a call that is still under way is left behind.
            runtime.shutdown_background();
            outcome
        }
        Err(e) => Err(Fault::internal(format!("the runtime could not be started: {e}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            terminal::complain(&fault.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Reads the tokens and holds the rule for open addresses.
fn tokens(args: &ServeArgs) -> Result<Tokens, String> {
    let inline = std::env::var("SD_WORKER_TOKENS").ok();
    if args.local_mode && (args.token_file.is_some() || inline.is_some() || !args.bind_addr.is_loopback()) {
        return Err("--local-mode is loopback without tokens; leave out the tokens and --bind-addr".to_owned());
    }
    let tokens = Tokens::load(TokenSources { file: args.token_file.clone(), inline }).map_err(|e| e.to_string())?;
    check_bind(args.bind_addr, !tokens.is_empty(), args.allow_unauthenticated).map_err(|e| e.to_string())?;
    Ok(tokens)
}

/// Who may be told of a job's end.
fn webhooks(args: &ServeArgs) -> Result<Option<WebhookPolicy>, String> {
    let policy = args.webhook.policy()?;
    if let Some(policy) = &policy {
        policy.check().map_err(|e| e.to_string())?;
    }
    Ok(policy)
}

/// The hosts and web pages that the operator allows, and what the hive is told.
fn origin_policy(args: &ServeArgs, tokens: &Tokens) -> Result<OriginPolicy, String> {
    let hosts = args.allowed_host.iter().map(|host| host_name(host)).collect::<Result<Vec<_>, _>>();
    let mut hosts = hosts.map_err(|e| format!("--allowed-host {e}"))?;
    let origins = Origins::parse(&args.allowed_origin).map_err(|e| format!("--allowed-origin {e}"))?;
    if let Some(url) = &args.advertise_url {
        let url = check_url(url).map_err(|e| format!("--advertise-url: {e}"))?;
        hosts.extend(url.parse::<::http::Uri>().ok().and_then(|url| url.host().map(str::to_ascii_lowercase)));
    } else if args.bind_addr.is_unspecified() && args.callback_url.is_some() {
        hosts.push(machine_name().to_ascii_lowercase());
    }
    Ok(OriginPolicy { hosts, any_host: !tokens.is_empty(), origins })
}

/// Who may come in.
fn policy(
    args: &ServeArgs,
    origin: OriginPolicy,
    tokens: Tokens,
) -> GatePolicy<<warp::reply::Response as HasBody>::Body> {
    GatePolicy { origin, tokens, rate: args.rate.limiter(), public: api::is_public, refuse: api::refuse }
}

/// Names the body of warp's answers, which warp itself does not.
trait HasBody {
    type Body;
}

impl<B> HasBody for ::http::Response<B> {
    type Body = B;
}

async fn serve(
    args: ServeArgs,
    origin: OriginPolicy,
    tokens: Tokens,
    webhooks: Option<WebhookPolicy>,
) -> Result<(), Fault> {
    let limits = server::Limits { max_connections: args.max_connections as usize, ..server::Limits::default() };
    let address = SocketAddr::new(args.bind_addr, args.port);
    let listener = server::bind(address, &limits)
        .map_err(|e| Fault::internal(format!("cannot listen on {address}: {e}; another port is chosen with --port")))?;
    let address = listener.local_addr().map_err(|e| Fault::internal(format!("cannot listen: {e}")))?;
    if let Some(limit) = server::raise_open_file_limit() {
        tracing::debug!(limit, "open files");
    }

    let settings = settings(&args, &tokens, webhooks);
    let app = tokio::task::spawn_blocking(move || App::start(settings))
        .await
        .map_err(|_| Fault::internal("the start failed"))??;
    let reload = tokens.clone();
    app.shutdown
        .on_signals(app.patience + LAST_WORDS, move || match reload.reload() {
            Ok(count) => tracing::info!(count, "tokens read again"),
            Err(e) => tracing::error!(code = e.code(), "the old tokens stay valid: {e}"),
        })
        .map_err(|e| Fault::internal(format!("signals cannot be handled: {e}")))?;
    bear_file_limits();
    let heart = Arc::new(Mutex::new(heart(&args, &app, address)?));

    let url = format!("http://{address}/");
    terminal::say(&format!("sd-worker listens on {url}"));
    tracing::info!(%address, model = app.config.model, "listening");
    let (warm, beating) = (app.clone(), heart.clone());
    tokio::task::spawn_blocking(move || {
        warm.warm_up();
        if warm.readiness().ready {
            tracing::info!(model = warm.default_model(), "ready");
        }
        // The hive hears of it now, not half a minute later.
        if let Some(heart) = beating.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            heart.poke();
        }
    });
    tokio::spawn(sweep(app.clone()));
    let ending = tokio::spawn(end(app.clone()));
    let stats = Arc::new(Stats::default());
    app.metrics.watch_server(stats.clone()).map_err(|e| Fault::internal(e.to_string()))?;
    let service = warp::service(warp::Filter::boxed(api::filter(app.clone())));
    let service = Observed::new(
        Gate::new(service, Arc::new(policy(&args, origin, tokens))),
        app.metrics.clone(),
        api::pattern_of,
    );
    let drained = server::serve(listener, service, limits, app.shutdown.clone(), stats)
        .await
        .map_err(|e| Fault::internal(e.to_string()))?;
    if app.shutdown.phase() != Phase::Stopped {
        // The work's end was awaited by `end` already; this only joins it.
        let _ = ending.await;
    }
    let heart = heart.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(heart) = heart.filter(|_| app.shutdown.phase() != Phase::Stopped) {
        // Says farewell; a queen that does not answer costs its time limit.
        let _ = tokio::task::spawn_blocking(move || heart.stop()).await;
    }
    let patience = if app.shutdown.phase() == Phase::Stopped { HASTE } else { CARE };
    let closing = app.clone();
    // Whatever clients were told is written before the program ends, even when it ends now.
    let _ = tokio::task::spawn_blocking(move || closing.close(patience)).await;
    tracing::info!(cut = drained.cut, "stopped");
    if app.shutdown.phase() == Phase::Stopped {
        // A second signal ends now, whatever threads still do.
        std::process::exit(0);
    }
    Ok(())
}

/// A limit on file sizes is to be an error of the write that meets it, not the end of the program.
fn bear_file_limits() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // Installing a handler is enough: it replaces the deadly default for the life of the program.
        if let Err(e) = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())) {
            tracing::debug!(error = %e, "no handler for SIGXFSZ");
        }
    }
}

/// The URL under which others reach a worker that listens on `address`.
fn advertised(given: Option<&str>, address: SocketAddr, machine: &str) -> String {
    match given {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None if address.ip().is_unspecified() => format!("http://{machine}:{}", address.port()),
        None => format!("http://{address}"),
    }
}

/// The machine's name in its network.
fn machine_name() -> String {
    let name = hostname::get().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

/// Starts the heartbeat, if there is anybody to tell.
fn heart(args: &ServeArgs, app: &Arc<App>, address: SocketAddr) -> Result<Option<hive::Heart>, Fault> {
    let device =
        app.engine.devices().first().map(|d| (d.tag.backend.to_string(), d.tag.device.to_string())).unwrap_or_default();
    let kind = device.1.split(':').next().unwrap_or_default().to_owned();
    let config = HiveConfig {
        queen_url: args.queen_url.clone(),
        callback_url: args.callback_url.clone(),
        worker_id: args.worker_id.clone(),
        port: address.port(),
        own_url: advertised(args.advertise_url.as_deref(), address, &machine_name()),
        implementation: format!("sd-worker-rbee-{kind}"),
        backend: kind,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        timing: hive::Timing::default(),
    };
    let (asked, told) = (app.clone(), app.clone());
    let status = move || WorkerStatus {
        status: match asked.readiness().state {
            "ready" => Status::Ready,
            "busy" => Status::Busy,
            "stopping" => Status::Stopping,
            _ => Status::Starting,
        },
        model_id: asked.engine.loaded_model().unwrap_or_else(|| asked.default_model()),
        device: device.1.clone(),
    };
    let seen = move |beat: &Beat| {
        if matches!(beat, Beat::Failed(_)) {
            told.metrics.heartbeat_failures_total.inc();
        }
    };
    hive::start(config, status, seen).map_err(|e| Fault::internal(e.to_string()))
}

fn settings(args: &ServeArgs, tokens: &Tokens, webhooks: Option<WebhookPolicy>) -> Settings {
    let secs = |n: u32| Duration::from_secs(u64::from(n));
    Settings {
        backends: args.backends.clone(),
        models: args.models.clone(),
        worker_id: args.worker_id.clone(),
        limits: args.limits(),
        metadata: !args.no_metadata,
        queue_jobs: args.queue_jobs as usize,
        keep: (secs(args.keep_secs), args.keep_jobs as usize),
        state: args.state.folder(args.port),
        state_bytes: u64::from(args.state.state_max_mib) << 20,
        on_restart: args.state.on_restart,
        webhooks,
        call_limit: secs(args.call_limit_secs),
        lanes: args.lanes.map(|n| n as usize),
        idle_unload: (args.idle_unload_secs > 0).then(|| secs(args.idle_unload_secs)),
        max_models: args.max_models.map(|n| n as usize),
        patience: secs(args.drain_secs),
        may_shut_down: !tokens.is_empty() || args.bind_addr.is_loopback(),
    }
}

/// Forgets what is over.
async fn sweep(app: Arc<App>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        app.registry.sweep();
        app.queue.sweep();
        if let Some(ledger) = &app.ledger {
            ledger.probe().await;
        }
    }
}

/// After the signal: ends the work, then lets the server close.
async fn end(app: Arc<App>) {
    app.shutdown.draining().await;
    let patience = match app.shutdown.phase() {
        // The server's deadline leaves room for last words after the jobs' own.
        Phase::Draining { deadline } => {
            deadline.saturating_duration_since(tokio::time::Instant::now()).saturating_sub(LAST_WORDS)
        }
        _ => Duration::ZERO,
    };
    let work = app.clone();
    let done = tokio::task::spawn_blocking(move || work.finish(patience));
    tokio::select! {
        _ = done => {}
        () = app.shutdown.stopped() => return,
    }
    app.shutdown.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advertised_address_can_be_reached() {
        for (given, listens, told) in [
            (None, "127.0.0.1:8600", "http://127.0.0.1:8600"),
            (None, "[::1]:8600", "http://[::1]:8600"),
            (None, "0.0.0.0:9000", "http://gpu7:9000"),
            (None, "[::]:9000", "http://gpu7:9000"),
            (Some("https://w.example/sd/"), "0.0.0.0:9000", "https://w.example/sd"),
        ] {
            assert_eq!(advertised(given, listens.parse().unwrap(), "gpu7"), told);
        }
    }
}
