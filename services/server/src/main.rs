//! The binary `rideshare`.

use std::process::ExitCode;

use clap::Parser;
use server::cli::Cli;
use server::output::note;
use server::settings::LogFormat;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = start_logging(cli.log(), cli.settings.log_format) {
        note(format_args!("rideshare: RUST_LOG: {error}\n"));
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            note(format_args!("rideshare: no runtime: {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cli.run()) {
        Ok(code) => code,
        Err(error) => {
            note(format_args!("rideshare: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn start_logging(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let to = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => to.with_target(false).init(),
        LogFormat::Json => to.json().flatten_event(true).init(),
    }
    Ok(())
}
