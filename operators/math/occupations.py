"""The occupation classes of personas: the ten major groups of ISCO-08, and `other` for people without paid work.

Source: PersonaMath v2 (arXiv 2410.01504), which classifies personas this way; the groups are those of the International
Labour Organization.
"""

from __future__ import annotations

from typing import Literal, get_args

Occupation = Literal[
    "managers",
    "professionals",
    "technicians",
    "clerical support workers",
    "service and sales workers",
    "skilled agricultural workers",
    "craft and trades workers",
    "machine operators and assemblers",
    "elementary occupations",
    "armed forces",
    "other",
]

OCCUPATIONS: tuple[Occupation, ...] = get_args(Occupation)

DESCRIPTIONS: dict[Occupation, str] = {
    "managers": (
        "runs an organisation, a department, a shop, a hotel or a project, plans budgets and staff, a director or chief"
    ),
    "professionals": (
        "an expert with a university education, such as a doctor, teacher, scientist, engineer, lawyer, software "
        "developer, architect, accountant, journalist or artist"
    ),
    "technicians": (
        "a technician or associate professional, such as a lab technician, nurse's assistant, surveyor, inspector, "
        "pilot, sports coach, chef, photographer or network technician"
    ),
    "clerical support workers": (
        "works in an office with files, post, bookings and payments, such as a secretary, receptionist, bank teller, "
        "postal worker, payroll clerk or librarian's assistant"
    ),
    "service and sales workers": (
        "serves customers, such as a cook, waiter, hairdresser, shop assistant, market seller, carer, firefighter, "
        "police officer, tour guide or flight attendant"
    ),
    "skilled agricultural workers": (
        "grows crops, raises animals, fishes or tends forests, such as a farmer, gardener, beekeeper, shepherd, "
        "winegrower, fisher or forester"
    ),
    "craft and trades workers": (
        "builds, repairs or makes things by hand, such as a carpenter, plumber, electrician, mechanic, welder, baker, "
        "tailor, potter, printer or jeweller"
    ),
    "machine operators and assemblers": (
        "runs machines or drives vehicles, such as a bus, lorry, train or crane driver, a factory machine operator, an "
        "assembler or a miner at a plant"
    ),
    "elementary occupations": (
        "does simple manual work, such as a cleaner, kitchen porter, farm labourer, warehouse hand, street sweeper, "
        "rubbish collector, packer or bicycle courier"
    ),
    "armed forces": (
        "serves in the army, navy or air force, such as a soldier, sailor, sergeant, officer or military engineer"
    ),
    "other": (
        "has no paid occupation, such as a school pupil, student, pensioner, parent at home, volunteer, collector or hobbyist"
    ),
}
"""Descriptions of the classes, for language models and sentence encoders."""
