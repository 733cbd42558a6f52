Quiet.sounds.push({
  "id": "bowl",
  "group": "night",
  "gain": 0.7,
  "made": "A bowl's partials in pairs, a hertz or two apart, so that they beat."
});
