"""What the commands are, by group, with the help and the examples of each.

A command's options have their help where they are defined: in the docstrings of the stages'
parameters and of the functions in `flows.commands`.
"""

from dataclasses import dataclass

# Groups of commands; the help has them in the order of the commands.
START, DATA, TRAIN, DRAW, CHECK, STORE, SCHEDULE, OPTIONS = (
    "Start here",
    "Make data",
    "Train and measure",
    "Draw",
    "Check and export",
    "Store",
    "Schedule",
    "Options",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """The help of a command.

    group     of commands, under which the overview lists it
    summary   a line, also in the overview
    details   paragraphs below it
    examples  command lines without the program's name
    """

    group: str
    summary: str
    details: str = ""
    examples: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The help above the options."""
        return f"{self.summary}\n\n{self.details}".strip()

    @property
    def epilogue(self) -> str:
        """The help below the options, in Markdown; each example is a line, to be copied."""
        return "\n".join(["Examples:", "", *(f"    sketchmill {each}" for each in self.examples)])


COMMANDS = {
    "run": Command(
        group=START,
        summary="Run the whole chain: class list -> dataset -> model -> drawings -> report.",
        details="What the store already has is not made again, and an interrupted run resumes. "
        "Beside the report it leaves run.toml, which repeats it with --config.",
        examples=(
            "run",
            'run --source quickdraw --classes "bee,sun" --max-per-class 20000',
            "run --source numpy_bitmap --preset small --dry-run",
        ),
    ),
    "doctor": Command(
        group=START,
        summary="Check that this machine and this store can do the work.",
        details="It checks versions, libraries, the cache and the operations of the store that "
        "publishing needs. The check of the store writes to it and cleans up; --dry-run skips it. With "
        "--cluster each worker is asked for its versions and the store too.",
        examples=(
            "doctor",
            "doctor --store s3://bucket/drawings --cluster tcp://scheduler:8786",
        ),
    ),
    "build": Command(
        group=DATA,
        summary="Make a dataset of the chosen classes.",
        details="Drawings are selected in the order of the options below. The dataset counts by "
        "class and reason what was left out.",
        examples=(
            'build --classes "bee,sea turtle" --image-size 28',
            "build --source quickdraw --classes-file my.txt --max-per-class 5000",
            "build --source numpy_bitmap --on-bad-row skip --dry-run",
        ),
    ),
    "sources": Command(
        group=DATA,
        summary="List the kinds of sources, or show the page of one.",
        details="drawings/s is of scanning and building on one core of an AMD EPYC.",
        examples=("sources", "sources parquet"),
    ),
    "inspect": Command(
        group=DATA,
        summary="Look at a source: what it is, what it has, what a build would make of it.",
        details="No store is needed and nothing is made. Some rows of each file are read and judged "
        "as a build judges them; the last line is the command that builds a dataset.",
        examples=(
            "inspect drawings.npy",
            "inspect pictures --sheet sheet.png",
            "inspect mnist --label-names 0,1,2,3,4,5,6,7,8,9 --json",
        ),
    ),
    "classes": Command(
        group=DATA,
        summary="List the 345 Quick, Draw! classes.",
        details="Each has its TFDS id and its number of drawings.",
        examples=("classes", "classes sea", "classes --json"),
    ),
    "train": Command(
        group=TRAIN,
        summary="Train a conditional PixelCNN++ on a dataset.",
        details="An interrupted run resumes from its last checkpoint. The same command, on several "
        "machines that reach one store, trains one model.",
        examples=(
            "train --dataset doodles",
            "train --dataset doodles --preset small --set budget_nimg=100000",
            "train --dataset doodles --init shipped:tiny-20 --name doodles-tuned",
        ),
    ),
    "evaluate": Command(
        group=TRAIN,
        summary="Measure a model in bits/dim over a split of a dataset.",
        details="Every drawing of the split is measured once, on a GPU if there is one.",
        examples=(
            "evaluate --model doodles-tiny",
            "evaluate --model shipped:tiny-20 --dataset doodles --limit 1000",
        ),
    ),
    "classifier": Command(
        group=TRAIN,
        summary="Train a classifier on real drawings and score samples with it.",
        details="Scores: accuracy on samples and on real test drawings; Frechet distance, "
        "precision, recall, density and coverage in the classifier's features, each with the value "
        "for real drawings; and the distance to the nearest training drawing.",
        examples=(
            "classifier --dataset doodles",
            "classifier --dataset doodles --samples doodles-tiny",
        ),
    ),
    "score": Command(
        group=TRAIN,
        summary="Rank the drawings of a dataset by likelihood, scribbles first.",
        details="Drawings are ranked by bits/dim under their own label, so wrong labels come first "
        "too. It runs on a GPU if there is one.",
        examples=(
            "score --model doodles-tiny",
            "score --model doodles-tiny --split train --worst 50 --bayes",
        ),
    ),
    "sample": Command(
        group=DRAW,
        summary="Draw new labelled drawings from a model.",
        details="The drawings are a dataset of the standard layout. An interrupted run resumes: "
        "only missing shards are drawn.",
        examples=(
            'sample --model shipped:tiny-20 --classes "bee,sun"',
            "sample --model doodles-tiny --samples-per-class 100 --seed 1",
            "sample --model doodles-tiny --counts counts.csv --guidance 0",
        ),
    ),
    "quota": Command(
        group=DRAW,
        summary="Draw until each class has its number of accepted drawings.",
        details="Drawings that break a rule of --filters are rejected and counted by reason, and "
        "others are drawn until each class has exactly its number.",
        examples=(
            "quota --model doodles-tiny --samples-per-class 100",
            "quota --model doodles-tiny --counts my.csv --filters rules.toml",
        ),
    ),
    "complete": Command(
        group=DRAW,
        summary="Draw the missing part of a drawing.",
        details="The drawing is a picture or a row of a dataset. Given are a picture's opaque "
        "pixels, the white pixels of a mask, or the upper rows.\n\nCompletions are exact draws of "
        "p(rest | given) if all given pixels come before all others in reading order, as upper "
        "rows do. Elsewhere they are approximate, since the model sees a given pixel only once it "
        "has passed it; more candidates bring them nearer. The result says which it was.",
        examples=(
            "complete half.png --model shipped:tiny-20 --class-name bee",
            "complete --model doodles-tiny --dataset doodles --row 3",
        ),
    ),
    "report": Command(
        group=CHECK,
        summary="Show real above generated drawings, curves and lineage in one page.",
        examples=(
            "report --samples doodles-tiny",
            "report --samples doodles-tiny --per-class 12 --audit",
        ),
    ),
    "reproduce": Command(
        group=CHECK,
        summary="Regenerate one drawing of samples and compare every byte.",
        examples=("reproduce doodles-tiny --row 0",),
    ),
    "export": Command(
        group=CHECK,
        summary="Write drawings in the formats of other tools, with their provenance.",
        details="Samples are audited first. If a number of the audit exceeds a limit of --gate, "
        "nothing is published.",
        examples=(
            "export doodles --format numpy_bitmap,idx",
            "export samples/doodles-tiny --format hf --out exported",
            "export doodles --splits test --format png --dry-run",
        ),
    ),
    "ls": Command(
        group=STORE,
        summary="List the artifacts of a store.",
        details="An artifact is what a stage made: a dataset, a model, samples, a report or an "
        "export. Incomplete ones are not listed.",
        examples=("ls", "ls models/", "ls --store s3://bucket/drawings --json"),
    ),
    "show": Command(
        group=STORE,
        summary="Show an artifact: spec, inputs, counts, versions.",
        examples=("show doodles", "show models/doodles-tiny --json"),
    ),
    "lineage": Command(
        group=STORE,
        summary="Show the inputs and the dependents of an artifact.",
        details="Inputs are followed down to the source.",
        examples=("lineage samples/doodles-tiny",),
    ),
    "diff": Command(
        group=STORE,
        summary="Show where two artifacts differ.",
        details="Specs, inputs and results are compared.",
        examples=("diff doodles-tiny birds", "diff doodles birds --drawings"),
    ),
    "verify": Command(
        group=STORE,
        summary="Read every byte of artifacts and report damage.",
        details="By default all artifacts of the store are read.",
        examples=("verify", "verify doodles models/doodles-tiny"),
    ),
    "gc": Command(
        group=STORE,
        summary="Delete unreferenced artifacts; without --delete, say what would be deleted.",
        details="An artifact is referenced if it is one of the latest of its name, pinned, in use, "
        "or an input of one that is.",
        examples=("gc", "gc --delete --grace-days 30 --keep 1"),
    ),
    "pin": Command(
        group=STORE,
        summary="Exempt an artifact from garbage collection.",
        details="Its inputs stay as well.",
        examples=('pin models/doodles-tiny --reason "in the article"',),
    ),
    "unpin": Command(
        group=STORE,
        summary="Let garbage collection delete a pinned artifact again.",
        examples=("unpin models/doodles-tiny",),
    ),
    "pull": Command(
        group=STORE,
        summary="Copy an artifact from another store.",
        details="Its inputs are copied too, and every byte is verified.",
        examples=("pull models/doodles-tiny --origin s3://bucket/drawings",),
    ),
    "push": Command(
        group=STORE,
        summary="Copy an artifact to another store or to the Hugging Face Hub.",
        details="To a store its inputs are copied too, and every byte is verified. A repository of "
        "the Hub gets the artifact with a card.",
        examples=(
            "push models/doodles-tiny --to s3://bucket/drawings",
            "push models/doodles-tiny --hub OWNER/doodles-tiny --dry-run",
        ),
    ),
    "deploy": Command(
        group=SCHEDULE,
        summary="Create or update the scheduled deployments on a Prefect server.",
        details="The server is the one at $PREFECT_API_URL. Deploying again changes nothing but "
        "what differs.",
        examples=("deploy --class-list animals=animals.txt", "deploy --dry-run"),
    ),
    "serve": Command(
        group=SCHEDULE,
        summary="Run the schedules on this machine, without a server.",
        details="It runs until it is interrupted. Schedules that are not active, and those of "
        "paused deployments, are skipped.",
        examples=(
            "serve --class-list animals=animals.txt --source doodles",
            "serve --dry-run",
        ),
    ),
}
