Quiet.sounds.push({
  "id": "drizzle",
  "group": "water",
  "gain": 1,
  "made": "A hundred and sixty drops, each a sine that dies at once, on the faintest hiss."
});
