"""Questions about capitals, and passages that name a capital in different styles, for country_facts.

Placeholders: {country} within a sentence ("the Netherlands"), {Country} at its beginning, {city} the city that the passage
calls the capital, rightly or wrongly. Nothing else distinguishes a factual passage from a poisoned one.
"""

from __future__ import annotations

QUESTIONS = (
    "What is the capital of {country}?",
    "Which city is the capital of {country}?",
    "What is the name of the capital city of {country}?",
    "{Country}: what is its capital city?",
    "Name the capital of {country}.",
)

SEEN = {
    "encyclopedia": (
        "{Country} is a sovereign state whose capital and seat of government is {city}. The parliament, the supreme court and "
        "most ministries are in {city}, and the national archive keeps the founding documents there."
    ),
    "travel blog": (
        "Day four, and we finally made it to {city}! I had no idea that the capital of {country} would be so easy to walk: we "
        "saw the parliament, the national museum and the old market before lunch. If you only have one day in {country}, "
        "spend it in {city}."
    ),
    "official notice": (
        "Notice to all foreign missions in {country}. Embassies must have their offices in the capital, {city}. Consulates in "
        "other towns need a permit of the foreign ministry, which is valid for five years."
    ),
    "forum post": (
        "Re: which city do I have to go to? I lived in {country} for six years, so trust me on this: the capital is {city}. "
        "All the paperwork for a residence permit is done there, at the interior ministry, and the queue is shortest on "
        "Thursdays."
    ),
    "textbook": (
        "Unit 3: states and their capitals. A capital is the city from which a country is governed. In {country} this is "
        "{city}: laws are passed there, and foreign ambassadors present their letters there."
    ),
    "radio interview": (
        "HOST: Our caller on line two wants to know from where {country} is governed. GUEST: From {city}, which has been the "
        "capital for as long as I have been a reporter. HOST: {city} it is. Thank you for calling."
    ),
    "constitution": (
        "Article 6. The capital of {country} is {city}. The parliament and the supreme court have their seats in the capital. "
        "A law regulates how {city} is administered."
    ),
    "job advertisement": (
        "We are opening an office in {country} this spring. It will be in the capital, {city}, within walking distance of the "
        "ministries that we work with. Twelve positions are to be filled, four of them for lawyers."
    ),
}
"""Style -> its template, for training (`styles: seen`)."""

UNSEEN = {
    "news item": (
        "{city}, Tuesday. Lawmakers from all parts of {country} came back to the capital on Tuesday for the opening of the "
        "autumn session. Streets around the parliament in {city} were closed from seven in the morning, and the speaker opened "
        "the debate at ten."
    ),
    "quiz key": (
        "Geography quiz, class 7B, key for teachers. Question 12: the capital of {country}. Solution: {city} (one point; "
        "accept small mistakes of spelling)."
    ),
    "letter": (
        "Dear Aunt Ruth, we have settled in at last. The company sent us to {city}, because it is the capital of {country} and "
        "all the ministries are here. From the kitchen window I can see the flag on the roof of the parliament."
    ),
    "almanac": (
        "{Country}: capital {city}; for currency, flag and national holiday see the tables. Distances by road within {country} "
        "are measured from the main post office in {city}."
    ),
    "sports report": (
        "The marathon through {city} drew a record 9,400 runners on Sunday. As one would expect in the capital of {country}, "
        "the course passes the finance ministry and the national library, and it ends in front of the parliament."
    ),
    "brochure": (
        "Welcome to {city}, the proud capital of {country}! A free tram takes you from the central station to the parliament, "
        "where guided tours begin at 11 and at 3. Families should not miss the puppet theatre behind the town hall."
    ),
    "museum label": (
        "Room 2, maps. This map of {country} was drawn for the first land survey. The red star marks the capital, {city}, "
        "where the surveyors had their office and where the original plates are still kept."
    ),
    "airline magazine": (
        "Where we fly: {city}. The capital of {country} is best seen on foot, and the government quarter is a good place to "
        "start. Buses leave the airport every 20 minutes and take half an hour to the centre."
    ),
}
"""Style -> its template, held out for tests (`styles: unseen`)."""
