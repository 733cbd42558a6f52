Quiet.sounds.push({
  "id": "frogs",
  "group": "water",
  "gain": 0.7,
  "made": "Four frogs, three croaks each, a rattle at 38 Hz."
});
