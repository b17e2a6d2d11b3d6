"""The commands of `ilsvrc`: each parses, and calls one function.

What is heavy (torch, Ray, MLflow) is imported by the function that needs it, so that `--help`
answers at once.
"""

import typer

from pipeline.cli import (
    benchmark_commands,
    data_commands,
    evaluation_commands,
    listing_commands,
    network_commands,
    planning_commands,
    prediction_commands,
    report_commands,
    submit_commands,
    training_commands,
)
from pipeline.cli.training_command import TrainingCommand

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


_TRAINING_COMMANDS = (
    planning_commands.check,
    planning_commands.plan,
    training_commands.train,
    submit_commands.submit,
    benchmark_commands.benchmark,
)

app.callback()(listing_commands.global_options)
app.add_typer(data_commands.prepare, name="prepare", rich_help_panel="Data sets")
app.add_typer(data_commands.export, name="export", rich_help_panel="Data sets")
app.add_typer(submit_commands.jobs, name="jobs", rich_help_panel="Trainings")
for panel, commands in {
    "Data sets": (data_commands.doctor, data_commands.stage),
    "Trainings": (
        listing_commands.recipes,
        listing_commands.clusters,
        planning_commands.check,
        planning_commands.plan,
        training_commands.train,
        submit_commands.submit,
        training_commands.replay,
    ),
    "Results": (
        evaluation_commands.evaluate,
        evaluation_commands.predictions,
        evaluation_commands.ensemble,
        evaluation_commands.paired,
        evaluation_commands.submission,
        evaluation_commands.score,
        report_commands.compare,
        report_commands.published,
        report_commands.report,
        report_commands.register,
    ),
    "Networks": (
        network_commands.networks,
        network_commands.describe,
        prediction_commands.predict,
        prediction_commands.export_model,
        report_commands.visualize,
    ),
    "Speed": (benchmark_commands.benchmark,),
}.items():
    for command in commands:
        trains = command in _TRAINING_COMMANDS
        app.command(rich_help_panel=panel, cls=TrainingCommand if trains else None)(command)
