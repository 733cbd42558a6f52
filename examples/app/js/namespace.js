// Everything hangs on one object. Plain scripts, no modules: the app also opens straight from a folder.
window.Quiet = { sounds: [], mixes: [], words: {} };
