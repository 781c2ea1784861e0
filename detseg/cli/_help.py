"""Help that is printed before torch and lightning are imported, which takes seconds."""

TRAIN = """detseg train [--config NAME.yaml] [--data NAME.yaml|CLASS|FOLDER] [--KEY VALUE ...]

  detseg train --data my/folder
  detseg train --config faster_rcnn_shapes.yaml
  detseg train --config faster_rcnn_r50.yaml --data.root my/coco --trainer.max_epochs 3 --task.lr 0.01
  detseg train --config faster_rcnn_r50.yaml --resume last"""

TRAIN_HELP = f"""usage: {TRAIN}

Train a detector, a segmenter or a classifier.

  --config FILE            a configuration: a path, or the name of one in configs/; of several, the later ones win.
                           Without it, a folder of objects in boxes gets a small Faster R-CNN and sizes that fit it
  --data FILE|CLASS|FOLDER other data than the configuration's: a file of settings, a class such as COCO, or a folder,
                           whose format is detected
  --data.KEY VALUE         one setting of the data, such as root, batch_size, num_workers
  --model.KEY VALUE        one setting of the model, such as backbone.channels
  --task.KEY VALUE         one setting of its training, such as lr, schedule.name, optimizer.name
  --trainer.KEY VALUE      one argument of Lightning's Trainer, such as max_epochs, devices, accelerator, precision
  --trainer FILE           some of them, such as trainer/gpu.yaml
  --name NAME              the folder of the run, runs/NAME; by default the name of the configuration
  --resume FILE|last|auto  a checkpoint to continue from; auto starts if there is none
  --checkpoint.every_minutes N, --patience N, --max_time DD:HH:MM:SS, --ema DECAY: see docs/training.md
  --logger NAME[,NAME]     wandb, mlflow, trackio, tensorboard, csv (default: the last two)
  --seed_everything N      seed of all random numbers (default: 0)
  --print_config           print the settings, and do not train

With --config, --help lists every setting with its type and default."""

CHECK = "FOLDER [--decode] [--all] [--json] [--fix FOLDER [--label_errors FILE]] [--html FILE.html]"
CHECK_DESCRIPTION = "Read all labels and the header of every image. Exit status: 0 clean, 1 warnings, 2 errors."
CHECK_OPTIONS = {
    "format": "The format of the folder; default: detected.",
    "decode": "Decode every image instead of reading only its header.",
    "jobs": "Processes that read images; default: the cores.",
    "side": "Short edge of the images, for the overlap with anchors (default: 800).",
    "all": "List all issues and classes instead of the first ones.",
    "fix": "Write a repaired copy to this new folder.",
    "duplicates": "List of near-duplicates from `detseg embed`, to report and to leave out of the copy.",
    "label_errors": "With --fix: correct the labels in this file, saved from an evaluation report.",
    "html": "Write a page with charts and pictures to this file.",
    "json": "Print JSON instead of text.",
}
CHECK_HELP = f"usage: detseg check {CHECK}\n\n{CHECK_DESCRIPTION}\n\n" + "\n".join(
    f"  --{name:<12} {text}" for name, text in CHECK_OPTIONS.items()
)

HELP = {"train": TRAIN_HELP, "check": CHECK_HELP}
