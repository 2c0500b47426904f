"""The command `mlcm video`; `cli` dispatches to it."""

from collections.abc import Sequence

from mlcm_jax.flags import Command, Flags, UsageError

_FLAGS = {
    "model": ("", "The work directory of a run; default: the network that ships with this package."),
    "stage": ("", "The stage that predicts; default: the run's last stage."),
    "camera": (-1, "Instead of a file: the number of a camera, from 0."),
    "celsius": ("auto", "Unit of 16-bit or float frames: scale,offset that give °C, kelvin, centikelvin, … or none."),
    "fps": (0.0, "Frames per second; default: those that the file states, or 25."),
    "frames": (0, "Stop after this many frames; default: all."),
    "smooth": (True, "Smooth the landmarks with the One-Euro filter."),
    "max_faces": (20, "The largest number of faces in a frame."),
    "out": (None, "Folder for the landmarks, the temperatures, their plot and the video with landmarks."),
    "overwrite": (False, "Replace what an earlier call wrote to --out."),
}


def video(words: Sequence[str], given: Flags) -> None:
    """Follows the faces of a video, and measures the temperatures of their regions.

    Takes .mp4 and .avi of gray levels or of a palette's colours, radiometric stacks (.npy [T, H, W], TIFF, FLIR's SEQ
    and CSQ), a folder of images, or a camera. Writes a line of JSON per frame, a table and a plot of temperatures, and
    the video with landmarks.
    """
    from mlcm_jax.inference.video import follow

    out, camera = given.require("out"), given.camera >= 0
    if len(words) + camera != 1:
        raise UsageError("video takes one file or folder, or --camera=0.")
    if given.stage and not given.model:
        raise UsageError("--stage names a stage of a run, so --model is needed too.")
    options = {"model": given.model or None, "stage": given.stage or None, "rate": given.fps}
    options |= {name: getattr(given, name) for name in ("celsius", "smooth", "max_faces", "overwrite")}
    follow(given.camera if camera else words[0], **options, most=given.frames or None, out=out)


COMMAND = Command(video, _FLAGS, "--out=DIR [--fps=25] [--frames=N] FILE | FOLDER | --camera=0", takes_words=True)
