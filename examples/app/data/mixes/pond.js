Quiet.mixes.push({
  "id": "pond",
  "levels": {
    "frogs": 0.35,
    "brook": 0.4,
    "crickets": 0.25
  }
});
